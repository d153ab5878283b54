# The process that outlives a killed server and kills what it had started; see watchdog.py.
#
#     sh watchdog.sh COMMAND...
#
# COMMAND kills what the process groups do not include. It replaces this script.

# These signals may be sent to everything that belongs to the server; the watchdog stays to clean up.
trap '' HUP INT QUIT TERM TSTP USR1 USR2
exec >/dev/null 2>&1

groups=' '
is_armed=no
while read -r line; do
  number=${line#[+-]}
  case $line in
    !)
      is_armed=yes
      ;;
    +*)
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
  exec "$@"
fi
