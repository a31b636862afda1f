#!/usr/bin/perl
# usage: server.pl ADDRESS folder FOLDER
#        server.pl ADDRESS relay RELAYADDRESS RELAYPORT
# TFTP in the name of ADDRESS, which is another host's: what the gateway hands over by TPROXY. Read only. All packets go from
# port 69 (a client talks on with the port that answers it), so a filter knows TFTP by that port alone. One loop, no state but
# the transfers under way: started again it knows nothing of these, and tells their clients so.
use strict;
use warnings;
use Errno qw(EAGAIN EINTR);
use Fcntl qw(F_SETFL O_NONBLOCK);
use Socket qw(:DEFAULT IPPROTO_IP);
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);
BEGIN { my ($folder) = $0 =~ m{^(.*)/}; unshift @INC, $folder // '.' }
use Fetched;
use Folder;
use Packets;
use Transfer;

use constant { IP_MTU_DISCOVER => 10, IP_PMTUDISC_DONT => 0, IP_TRANSPARENT => 19 };
use constant TFTP_PORT => 69;
use constant PACKET_BYTES_MAX => 2_048;
use constant AT_ONCE => 64;              # packets between two looks at what is due
use constant TRANSFERS_MAX => 512;
use constant TRANSFERS_PER_CLIENT => 8;  # of one address: a node has one or two
use constant LOOK_SECONDS => 0.1;
use constant STUCK_SECONDS => 20;        # without a turn of the loop it ends, and is started anew
use constant LINES_PER_SECOND => 10;
use constant RECEIVE_BYTES => 1_048_576;

my ($address, $kind, @where) = @ARGV;
my $socket;
my $source = ($kind // '') eq 'folder' && @where == 1 ? Folder->new(@where)
  : ($kind // '') eq 'relay' && @where == 2 ? Fetched->new(@where, sub { close $socket }) # one that outlives us must not take what comes for the next of us
  : die "usage: server.pl ADDRESS folder FOLDER | ADDRESS relay RELAYADDRESS RELAYPORT\n";
umask 0077;
$SIG{PIPE} = 'IGNORE';
$SIG{ALRM} = sub { print STDERR "stuck\n"; exit 1 };

socket($socket, PF_INET, SOCK_DGRAM, 0) or die "socket: $!\n";
setsockopt($socket, IPPROTO_IP, IP_TRANSPARENT, 1) or die "IP_TRANSPARENT: $!\n";
setsockopt($socket, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT) or die "IP_MTU_DISCOVER: $!\n";
setsockopt($socket, SOL_SOCKET, SO_RCVBUF, RECEIVE_BYTES);
fcntl($socket, F_SETFL, O_NONBLOCK) or die "O_NONBLOCK: $!\n";
bind($socket, sockaddr_in(TFTP_PORT, inet_aton($address))) or die "bind $address:69: $!\n";

my %transfers; # by the client's address and port
my %waiting;   # names that are being fetched, likewise
my ($looked, $second, $lines) = (0, 0, 0);

while (1) {
  alarm STUCK_SECONDS;
  my $ready = '';
  vec($ready, fileno $_, 1) = 1 for $socket, my @handles = $source->handles;
  my $found = select $ready, undef, undef, LOOK_SECONDS;
  if ($found > 0) {
    $source->ready($_) for grep { vec $ready, fileno $_, 1 } @handles;
    if (vec $ready, fileno $socket, 1) {
      for (1 .. AT_ONCE) {
        my $from = recv $socket, my $packet, PACKET_BYTES_MAX, 0;
        last unless defined $from;
        received($from, $packet);
      }
    }
  }
  look() if now() - $looked > LOOK_SECONDS;
}

sub look {
  my $now = $looked = now();
  for my $client (keys %transfers) {
    my $transfer = $transfers{$client};
    next if $transfer->{due} > $now;
    guarded($client, sub { end($client, 'the client went away') unless $transfer->again($now) });
  }
}

sub received {
  my ($client, $packet) = @_;
  return if length $packet < 4;
  my ($code, $rest) = unpack 'n a*', $packet;
  my $transfer = $transfers{$client};
  if ($code == Packets::RRQ) { asked($client, $rest) }
  elsif ($code == Packets::WRQ) { refuse($client, Packets::DENIED, 'read only') }
  elsif ($code == Packets::ACK && $transfer) {
    guarded($client, sub { end($client) if $transfer->acknowledged(unpack('n', $rest), now()) });
  }
  elsif ($code == Packets::ACK) { refuse($client, Packets::UNKNOWN_TID, 'unknown transfer') unless $waiting{$client} }
  elsif ($code == Packets::ERROR) { end($client, 'the client wants no more') if $transfer; delete $waiting{$client} }
}

sub asked {
  my ($client, $rest) = @_;
  my ($name, $mode, $options) = Packets::request($rest) or return refuse($client, Packets::ILLEGAL, 'no request');
  my $transfer = $transfers{$client};
  # its first answer was lost, or is on its way
  return guarded($client, sub { $transfer->send(now()) }) if $transfer && $transfer->fresh && $transfer->{name} eq $name && $transfer->{mode} eq $mode;
  return if defined $waiting{$client} && $waiting{$client} eq $name;
  delete $transfers{$client}; # ROMs use one port for all they ask: it begins anew
  my $path = Packets::path($name);
  return refuse($client, Packets::DENIED, 'no name of a file', $name) unless defined $path;
  my (undef, $host) = sockaddr_in($client);
  my @all = (keys %transfers, keys %waiting);
  return refuse($client, Packets::OTHER, 'too many transfers', $name)
    if @all >= TRANSFERS_MAX || TRANSFERS_PER_CLIENT <= grep { (sockaddr_in($_))[1] eq $host } @all;
  $waiting{$client} = $name;
  $source->get($path, sub {
    my ($file, $number, $why) = @_;
    # it may ask for something else by now
    return unless defined $waiting{$client} && $waiting{$client} eq $name;
    delete $waiting{$client};
    return refuse($client, $number, $why, $name) unless $file;
    guarded($client, sub {
      my $begun = Transfer->new(file => $file, name => $name, mode => $mode, options => $options, send => sub { send $socket, $_[0], 0, $client });
      $transfers{$client} = $begun;
      $begun->send(now());
    }, $name);
  });
}

# A file that cannot be sent ends its transfer, and nothing else.
sub guarded {
  my ($client, $do, $name) = @_;
  return if eval { $do->(); 1 };
  my $why = $@;
  chomp $why;
  my $transfer = delete $transfers{$client};
  refuse($client, Packets::OTHER, $why, $name // ($transfer ? $transfer->{name} : undef));
}

sub refuse {
  my ($client, $code, $why, $name) = @_;
  send $socket, Packets::error($code, $why), 0, $client;
  note($client, $name, "refused: $why") unless $code == Packets::UNKNOWN_TID;
}

sub end {
  my ($client, $why) = @_;
  my $transfer = delete $transfers{$client} or return;
  note($client, $transfer->{name}, defined $why ? "ended: $why" : "sent: $transfer->{size} bytes");
}

# What a node makes us write is bounded.
sub note {
  my ($client, $name, $what) = @_;
  my $now = int now();
  ($second, $lines) = ($now, 0) if $now != $second;
  return if ++$lines > LINES_PER_SECOND;
  my ($port, $host) = sockaddr_in($client);
  my $shown = defined $name ? substr($name, 0, 255) =~ s/[^\x21-\x7e]/?/gr : '-';
  print STDERR inet_ntoa($host), ":$port $shown $what\n";
}

# Of a clock that nobody sets back: what is due would be due hours later.
sub now { return clock_gettime(CLOCK_MONOTONIC) }
