#!/usr/bin/perl
# usage: frames.pl send LINK INDEX COUNT PER_SECOND    frames in hexadecimal on standard input, one a line, in turn
#        frames.pl count LINK INDEX SECONDS WORD       prints how many frames with that word came in
# Raw frames for tests, in the network namespace of its caller. INDEX is that of the link.
use strict;
use warnings;
use Time::HiRes qw(time sleep);
use constant { AF_PACKET => 17, SOCK_RAW => 3, ETH_P_ALL => 3, OUTGOING => 4 };

my ($mode, $link, $index, $amount, $more) = @ARGV;
my $place = pack 'S n l S C C a8', AF_PACKET, ETH_P_ALL, $index, 0, 0, 0, '';
# a sender does not listen: protocol 0
socket(my $socket, AF_PACKET, SOCK_RAW, $mode eq 'count' ? unpack('S', pack 'n', ETH_P_ALL) : 0) or die "socket: $!\n";

if ($mode eq 'send') {
  my @frames = map { chomp; pack 'H*', $_ } <STDIN>;
  my $begin = time;
  my $sent = 0;
  for my $n (0 .. $amount - 1) {
    my $early = $begin + $n / $more - time;
    sleep $early if $early > 0;
    $sent++ if defined send $socket, $frames[$n % @frames], 0, $place;
  }
  print "$sent\n";
} else {
  bind $socket, $place or die "bind: $!\n";
  my $end = time + $amount;
  my $found = 0;
  $| = 1;
  print "ready\n";
  while ((my $left = $end - time) > 0) {
    my $ready = '';
    vec($ready, fileno $socket, 1) = 1;
    next if select($ready, undef, undef, $left) <= 0;
    my $from = recv $socket, my $frame, 65536, 0;
    next if !defined $from || (unpack 'S n l S C', $from)[4] == OUTGOING;
    $found++ if index($frame, $more) >= 0;
  }
  print "$found\n";
}
