# The process that outlives a killed server and kills what it had started; see watchdog.py.
#
#     sh watchdog.sh SERVER CGROUP COMMAND...
#
# SERVER is the server's process id, CGROUP a name for its cgroup. COMMAND kills what is left when
# the process groups and the cgroup have been killed.

# These signals may be sent to everything that belongs to the server; the watchdog stays to clean up.
trap '' HUP INT QUIT TERM TSTP USR1 USR2
exec >/dev/null 2>&1

server=$1
name=$2
shift 2

# Prints the path of a process's cgroup (version 2).
cgroup_of() {
  while IFS= read -r line; do
    case $line in
      0::*) echo "${line#0::}" ;;
    esac
  done <"/proc/$1/cgroup"
}

# Moves the server into a cgroup of its own, if the user may make one. Programs inherit it, the
# watchdog stays outside. Not if the server is gone: its number may be used by others then. Not if the
# directory is that of another cgroup, as in a container that has the host's mounted.
cgroup=
make_cgroup() {
  grep -qx "PPid:[[:space:]]*$server" "/proc/$$/status" || return
  for mount in /sys/fs/cgroup /sys/fs/cgroup/unified; do
    if [ -e "$mount/cgroup.controllers" ]; then
      path=$(cgroup_of self)
      parent=$mount${path%/}
      if [ -w "$parent/cgroup.procs" ] && grep -qx "$$" "$parent/cgroup.procs" &&
        mkdir "$parent/$name"; then
        if [ -w "$parent/$name/cgroup.kill" ] && echo "$server" >"$parent/$name/cgroup.procs"; then
          cgroup=$parent/$name
        else
          rmdir "$parent/$name"
        fi
      fi
      break
    fi
  done
}

# Moves a process that was started before the server was in its cgroup; those that follow are in it.
is_early=yes
take_along() {
  case $(cgroup_of "$1") in
    *"/$name")
      is_early=no
      ;;
    *)
      # Unless it has ended, and its number may be used by others.
      read -r children <"/proc/$server/task/$server/children"
      case " $children " in
        *" $1 "*) echo "$1" >"$cgroup/cgroup.procs" ;;
      esac
      ;;
  esac
}

groups=' '
is_armed=no
is_first=yes
while read -r line; do
  number=${line#[+-]}
  case $line in
    !)
      is_armed=yes
      ;;
    +*)
      # Not before: the first start would have to share the processor with it.
      [ $is_first = yes ] && make_cgroup
      is_first=no
      [ -n "$cgroup" ] && [ $is_early = yes ] && take_along "$number"
      case $groups in
        *" $number "*) ;;
        *) groups="$groups$number " ;;
      esac
      ;;
    -*)
      case $groups in
        *" $number "*) groups="${groups%% $number *} ${groups#* $number }" ;;
      esac
      ;;
    =)
      is_armed=no
      ;;
  esac
done

for group in $groups; do
  # Never 1: that group means every process.
  [ "$group" -gt 1 ] && kill -s KILL -- "-$group"
done

if [ $is_armed = yes ]; then
  [ -n "$cgroup" ] || exec "$@"
  # A server that still waits for this must not be killed.
  if grep -qx "$server" "$cgroup/cgroup.procs"; then
    echo "$server" >"$parent/cgroup.procs"
  fi
  echo 1 >"$cgroup/cgroup.kill"
  "$@"
fi

# Those of servers below this one, too. Killed processes and the server take a moment to be gone.
tries=0
while [ -e "$cgroup/cgroup.procs" ] && [ $tries -lt 500 ]; do
  find "$cgroup" -depth -type d -exec rmdir {} \; || sleep 0.01
  tries=$((tries + 1))
done
