# Three hosts have the same line in their crontabs, and the clock strikes three.
until [ -e url ]; do sleep 0.1; done
ADVLOCK_PING_URL="$(cat url)/nightly"
export ADVLOCK_PING_URL

# It takes until the two others have been here, and fails if it is told to.
report='until [ "$(wc -l < skipped)" = 2 ]; do sleep 0.1; done; echo "3 rows"; exit ${CODE:-0}'

host() {
    advlock run -n -q --ping-output nightly -- sh -c "$report" > "$1.log"
    [ $? = 75 ] && echo "$1 skips" >> skipped
}

: > skipped
for name in web-1 web-2 web-3; do host $name & done
wait
