#!/usr/bin/perl -w
# usage: prober.pl HEALTHPORT [FOLDER TABLE SET SECONDS PORT...]
# With the port alone: exit code 0 when the engine answers now. Else runs for ever: while the engine
# answers, keeps PORTs in the nft set for SECONDS; and keeps the engine's logs in FOLDER short. It is
# not part of the agent, so the cache works on, and fails open, without one.
use strict;
# Nothing else is loaded: there is one of these for each cache, and Socket, constant and warnings are 1.2 MB of memory.

sub ANSWER_SECONDS () { 2 }
sub NFT_SECONDS () { 5 }
sub PAUSE_SECONDS () { 1 }
sub LOG_BYTES_MAX () { 16 * 1024 * 1024 }
# <sys/socket.h> of Linux; the same on all processors that Debian 12 runs on but MIPS
sub AF_INET () { 2 }
sub SOCK_STREAM () { 1 }

my ($health, $folder, $table, $set, $seconds, @ports) = @ARGV;
exit(answers() ? 0 : 1) unless defined $folder;

$SIG{PIPE} = 'IGNORE';
setpriority(0, 0, -10); # a busy host is not a dead engine; where it is not allowed, so be it
while (1) {
  refresh() if answers();
  shorten($_) for 'access.log', 'error.log', 'parts.log'; # of the last one the fetcher, if it runs, is faster
  select(undef, undef, undef, PAUSE_SECONDS);
}

sub answers {
  my $line;
  eval {
    local $SIG{ALRM} = sub { die "late\n" };
    alarm ANSWER_SECONDS;
    my $socket;
    if (socket($socket, AF_INET, SOCK_STREAM, 0) && connect($socket, pack('S n C4 x8', AF_INET, $health, 127, 0, 0, 1))) {
      syswrite $socket, "GET / HTTP/1.0\r\n\r\n";
      $line = <$socket>;
    }
    alarm 0;
    1;
  } or alarm 0;
  return defined $line && $line =~ m{^HTTP/1\.[01] 204 };
}

# One transaction: kernels before 6.12 do not prolong an element that is added again.
sub refresh {
  my $plain = join ', ', @ports;
  my $timed = join ', ', map { "$_ timeout ${seconds}s" } @ports;
  my $child = open(my $nft, '|-');
  return unless defined $child;
  if (!$child) {
    open STDERR, '>', '/dev/null';
    alarm NFT_SECONDS; # survives exec: a hung nft ends by itself
    exec 'nft', '-f', '-' or exit 127;
  }
  print {$nft} "add element bridge $table $set { $plain }\n",
    "delete element bridge $table $set { $plain }\n",
    "add element bridge $table $set { $timed }\n";
  close $nft; # no table, no harm: the agent is about to make or to remove it
}

# Keeps one older file beside the current one; whoever counts must come by before the next turn.
sub shorten {
  my $log = "$folder/$_[0]";
  return unless (-s $log // 0) > LOG_BYTES_MAX;
  # in a folder of the engine's: no link, no waiting for the end of a pipe, and not more than a number
  require Fcntl; # seldom needed
  sysopen(my $file, "$folder/nginx.pid", Fcntl::O_RDONLY() | Fcntl::O_NOFOLLOW() | Fcntl::O_NONBLOCK()) or return;
  my $engine = '';
  return unless sysread($file, $engine, 16) && $engine =~ /^(\d+)\n/;
  my $pid = $1; # whatever the engine wrote there: no signal to a process that is not of its user
  return unless ((stat "/proc/$pid")[4] // -1) == ((stat $folder)[4] // -2);
  rename $log, "$log.1" and kill 'USR1', $pid;
}
