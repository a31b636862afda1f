#!/usr/bin/perl
# usage: launch.pl ADDRESS:PORT... -- PROGRAM ARGUMENT...
# nginx has no way to ask for a transparent listening socket. This opens them and becomes nginx,
# which finds their numbers in NGINX and takes those whose address a `listen` names.
use strict;
use warnings;
use Fcntl qw(F_SETFL O_NONBLOCK);
use Socket qw(:DEFAULT IPPROTO_IP);

use constant IP_TRANSPARENT => 19;

$^F = 1023; # highest descriptor that exec keeps
my @sockets;
while (@ARGV) {
  my $listen = shift @ARGV;
  last if $listen eq '--';
  my ($address, $port) = $listen =~ /^([0-9.]+):([0-9]+)$/ or die "not ADDRESS:PORT: $listen\n";
  socket(my $socket, PF_INET, SOCK_STREAM, 0) or die "socket: $!\n";
  setsockopt($socket, SOL_SOCKET, SO_REUSEADDR, 1) or die "SO_REUSEADDR: $!\n";
  setsockopt($socket, IPPROTO_IP, IP_TRANSPARENT, 1) or die "IP_TRANSPARENT: $!\n";
  fcntl($socket, F_SETFL, O_NONBLOCK) or die "O_NONBLOCK: $!\n";
  bind($socket, sockaddr_in($port, inet_aton($address))) or die "bind $listen: $!\n";
  listen($socket, 1024) or die "listen $listen: $!\n";
  push @sockets, $socket;
}
die "nothing to run\n" unless @ARGV;
$ENV{NGINX} = join '', map { fileno($_) . ';' } @sockets;
exec { $ARGV[0] } @ARGV or die "$ARGV[0]: $!\n";
