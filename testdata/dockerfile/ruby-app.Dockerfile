FROM ruby:3.3
MAINTAINER The Team

# System packages first: they change least.
RUN apt-get update && \
    apt-get install -y --no-install-recommends \
      nodejs \
      # for the image pipeline
      libvips42 && \
    rm -rf /var/lib/apt/lists/*

ADD Gemfile Gemfile.lock /app/
WORKDIR /app
RUN bundle config set without 'development test' \
 && bundle install --jobs 4

ADD . /app
ENV RAILS_ENV=production \
    PORT=3000
EXPOSE $PORT
ENTRYPOINT ["bundle", "exec"]
CMD rails server -b 0.0.0.0 -p $PORT
