package Clock;
# Time for waiting and for rates: one that goes on evenly. The time of day is set back when a host finds its time server, and
# whatever is due would then be due hours later.
use strict;
use warnings;
use Time::HiRes (); # no import: what exports it is half a megabyte of memory

sub import {
  no strict 'refs';
  *{caller() . '::time'} = sub () { return Time::HiRes::clock_gettime(Time::HiRes::CLOCK_MONOTONIC()) };
}

1;
