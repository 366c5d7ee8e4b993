#!/bin/sh
# dockerd.sh SHALE FOLDER: pushes the image web:1 of the store to a registry, lets dockerd pull it, and asks what runs of it.
#
# To be run as root in a mount and a network namespace of its own: nothing of it is seen outside. FOLDER takes everything, NAME is
# the name of its control groups. Prints what it saw, a line each; `SKIP: …` for what this machine does not offer.
set -u
shale=$1
folder=$2
group=$3
image=127.0.0.1:5000/team/web:1
ip link set lo up && mount -t tmpfs tmpfs /run || exit 1
docker() { command docker --host "unix://$folder/docker.sock" "$@"; }

printf 'version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: "127.0.0.1:5000"}\n' \
    "$folder/registry" >"$folder/registry.yml"
docker-registry serve "$folder/registry.yml" >/dev/null 2>&1 &
registry=$!
dockerd --data-root "$folder/data" --exec-root "$folder/exec" --host "unix://$folder/docker.sock" --pidfile "$folder/pid" \
    --storage-driver vfs --cgroup-parent "$group" --exec-opt native.cgroupdriver=cgroupfs >"$folder/dockerd.log" 2>&1 &
dockerd=$!

finish() {
    docker swarm leave --force >/dev/null 2>&1
    for container in $(docker ps -aq 2>/dev/null); do docker rm -f "$container" >/dev/null 2>&1; done
    kill "$dockerd" "$registry" 2>/dev/null
    wait
    # Those of dockerd 1.12 and later that lie on every kind of tree.
    find /sys/fs/cgroup -depth -type d -path "*/$group*" -exec rmdir {} + 2>/dev/null
}
trap finish EXIT

answer() { # URL: what a server says that may need a moment
    tries=0
    until wget -q -T 5 -O - "$1" 2>/dev/null || [ $((tries += 1)) -gt 100 ]; do sleep 0.1; done
}

tries=0
until docker version >/dev/null 2>&1; do
    if ! kill -0 "$dockerd" 2>/dev/null || [ $((tries += 1)) -gt 300 ]; then
        echo "SKIP: dockerd: does not start here: $(grep -v 'level=\(info\|warning\)' "$folder/dockerd.log" | tail -n 1)"
        exit 0
    fi
    sleep 0.1
done

"$shale" tag web:1 "$image" && "$shale" push "$image" | sed -n 's/^1: digest: \([^ ]*\) .*/pushed \1/p' || exit 1
docker pull "$image" | sed -n 's/^Digest: /pulled /p'
echo "id $(docker image inspect --format '{{.Id}}' "$image")"
if ! said=$(docker run -d -p 8091:8080 "$image" 2>&1); then
    echo "SKIP: docker run: dockerd starts no container here: $said"
    exit 0
fi
echo "run $(answer http://127.0.0.1:8091/)"
if ! said=$(docker swarm init --advertise-addr 127.0.0.1 2>&1); then
    echo "SKIP: swarm: docker swarm init: $said"
    exit 0
fi
docker service create --quiet --name web --publish mode=host,target=8080,published=8092 "$image" >/dev/null
echo "service $(answer http://127.0.0.1:8092/)"
