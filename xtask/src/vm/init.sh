#!/bin/busybox sh
# Process 1 of the guest: runs tcplinger without the diag modules, with them, and by the classic
# program. Reports on the second serial port: `=== NAME EXIT_CODE` before what a command printed.

/bin/busybox --install -s /bin
export PATH=/bin
mkdir -p /proc /sys /dev /tmp /run
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t securityfs securityfs /sys/kernel/security
mount -t tracefs tracefs /sys/kernel/tracing
ip link set lo up
# A small guest has room for 2048: closes would skip TIME_WAIT.
echo 65536 >/proc/sys/net/ipv4/tcp_max_tw_buckets
exec >/dev/ttyS1 2>/dev/null

ask() {
    name=$1
    shift
    "$@" >/tmp/answer 2>&1
    echo "=== $name $?"
    cat /tmp/answer
}

load() {
    xtask load --connections "$1" --close fin >/dev/null
}

# How many sockets are in each state, by the kernel's number, over all network namespaces.
count_sockets() {
    seen=
    for process in /proc/[0-9]*; do
        netns=$(readlink "$process/ns/net") || continue
        case $seen in *"$netns"*) continue ;; esac
        seen="$seen $netns"
        cat "$process/net/tcp" "$process/net/tcp6"
    done | awk '$1 ~ /^[0-9]+:$/ { n[$4]++ } END { for (state in n) print state, n[state] }'
}

# round NAME PROGRAM: a daemon over sockets older than it and newer ones, then single events.
round() {
    tcplinger run --program "$2" >/tmp/log 2>&1 &
    daemon=$!
    while kill -0 $daemon && ! [ -S /run/tcplinger.sock ]; do sleep 0.2; done
    load 200
    ask "$1.proc" count_sockets
    ask "$1.kernel" tcplinger status --format json --source kernel
    ask "$1.daemon" tcplinger status --format json --source daemon
    tcplinger events --program "$2" --format json --count 100 --duration 30s >/tmp/events 2>&1 &
    events=$!
    while kill -0 $events; do load 2; done
    ask "$1.events" wait $events
    cat /tmp/events
    ask "$1.stuck" tcplinger stuck --all --state close_wait --format json --source daemon
    ask "$1.alone" tcplinger stuck --all --state close_wait --format json --source kernel
    load 3000
    ask "$1.storm" settled
    kill $daemon
    ask "$1.run" wait $daemon
    cat /tmp/log
}

# The daemon's status after a storm, once it has received what the program has counted.
settled() {
    sleep 3
    tcplinger status --format json --source daemon
}

# Wakeups of the daemon's main thread in ten seconds without traffic.
wakeups() {
    sleep 5
    before=$(awk '/^voluntary/ { print $2 }' /proc/$daemon/status)
    sleep 10
    after=$(awk '/^voluntary/ { print $2 }' /proc/$daemon/status)
    echo "wakeups $((after - before))"
}

# What the program tells of minisockets in FIN_WAIT2: some get their FIN, some run out of time.
minisockets() {
    tcplinger run --bpf-log trace >/tmp/log 2>&1 &
    daemon=$!
    while kill -0 $daemon && ! [ -S /run/tcplinger.sock ]; do sleep 0.2; done
    wakeups
    sleep 1 | xtask hold --connections 5
    echo 1 >/proc/sys/net/ipv4/tcp_fin_timeout
    sleep 5 | xtask hold --connections 5
    kill $daemon
    wait $daemon
    grep -o 'minisocket [0-9]* -> [0-9]*' /tmp/log | sort | uniq -c
}

# Older than every daemon: a listener, two whole connections, half a one, another namespace.
nc -ll -p 7000 -e sleep 1000 &
sleep 0.5
sleep 1000 | nc 127.0.0.1 7000 &
sleep 1000 | nc ::1 7000 &
nc 127.0.0.1 7000 </dev/null &
unshare -n sh -c 'xtask load --connections 100 --close fin; sleep 1000' >/dev/null &

ask bare.doctor tcplinger doctor
round bare auto
for module in inet_diag tcp_diag; do
    unxz /bin/$module.ko.xz
    ask $module insmod /bin/$module.ko
done
ask full.doctor tcplinger doctor
round full auto
round classic classic
ask minisockets minisockets
ask verifier tail -n 40 /tmp/tcplinger-verifier-*
ask end true
poweroff -f
