# What outlives the server, to end what the server started; see watchdog.py.
#
#     sh watchdog.sh COMMAND...
#
# COMMAND ends what else the server has left behind. It is run in the place of this script.

# May be sent to everything that belongs to the server; the watchdog stays to clean up.
trap '' HUP INT QUIT TERM TSTP USR1 USR2
exec >/dev/null 2>&1

groups=' '
is_dismissed=yes
while read -r line; do
  number=${line#[+-]}
  case $line in
    +*)
      is_dismissed=no
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
      is_dismissed=yes
      ;;
  esac
done

for group in $groups; do
  # Never 1: to that group belongs everything.
  [ "$group" -gt 1 ] && kill -s KILL -- "-$group"
done
if [ $is_dismissed = no ]; then
  exec "$@"
fi
