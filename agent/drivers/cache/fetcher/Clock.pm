package Clock;
# Time for waiting and for rates: one that goes on evenly. The time of day is set back when a host finds its time server, and
# whatever is due would then be due hours later.
use strict;
use warnings;
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);

sub import {
  no strict 'refs';
  *{caller() . '::time'} = sub () { return clock_gettime(CLOCK_MONOTONIC) };
}

1;
