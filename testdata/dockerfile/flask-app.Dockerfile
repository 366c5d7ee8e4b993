FROM python:3.12-slim
LABEL maintainer "Someone <someone@example.com>"

ENV APP_PATH /opt/imageview
RUN pip install flask pillow

COPY requirements.txt $APP_PATH/
COPY src $APP_PATH/src
WORKDIR $APP_PATH
EXPOSE 80
CMD ["python", "src/serve.py"]
