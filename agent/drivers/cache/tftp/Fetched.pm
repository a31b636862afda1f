package Fetched;
# Files of a frontend that is at another site, from the relay there: asked for at each transfer, fetched when they differ from
# what is kept. So many nodes cost one fetch, and no file is older than what the frontend has. A process of its own does each.
use strict;
use warnings;
use Digest::SHA qw(sha256_hex);
use Fcntl qw(O_RDONLY O_NOFOLLOW);
use IO::Socket::INET;
use Packets;
use POSIX ();

use constant PARALLEL => 8;
use constant WAITING_MAX => 64;               # names that are asked for at once, of nodes that try one after the other
use constant CONNECT_SECONDS => 5;
use constant FETCH_SECONDS => 120;
use constant HEAD_BYTES_MAX => 8_192;
use constant FILE_BYTES_MAX => 67_108_864;    # as the relay has it
use constant KEPT_BYTES_MAX => 536_870_912;
use constant READ_BYTES => 65_536;

# The folder that the process runs in is where files are kept; it is this program's own. `forked` is called in each process of its own.
sub new {
  my ($class, $address, $port, $forked) = @_;
  return bless { address => $address, port => $port, forked => $forked, jobs => {}, queue => [] }, $class;
}

sub get {
  my ($self, $path, $done) = @_;
  my $job = $self->{jobs}{$path};
  if (!$job) {
    return $done->(undef, Packets::OTHER, 'too many files are being fetched') if keys %{$self->{jobs}} >= WAITING_MAX;
    $job = $self->{jobs}{$path} = { path => $path, done => [], answer => '' };
    push @{$self->{queue}}, $job;
  }
  push @{$job->{done}}, $done;
  $self->begin;
}

sub begin {
  my ($self) = @_;
  while (@{$self->{queue}} && $self->handles < PARALLEL) {
    my $job = shift @{$self->{queue}};
    my $child = open $job->{pipe}, '-|';
    if (!defined $child) { delete $job->{pipe}; $self->finish($job, '0 no process'); next }
    next if $child;
    $self->{forked}->();
    $SIG{ALRM} = 'DEFAULT';
    alarm FETCH_SECONDS;
    my $answer = eval { fetch($self->{address}, $self->{port}, $job->{path}) } // do { my $why = $@; chomp $why; $why =~ /^\d / ? $why : "0 $why" };
    syswrite STDOUT, $answer;
    POSIX::_exit(0);
  }
}

sub handles { return map { $_->{pipe} // () } values %{$_[0]{jobs}} }

# To be called with a handle that can be read.
sub ready {
  my ($self, $handle) = @_;
  my ($job) = grep { defined $_->{pipe} && $_->{pipe} == $handle } values %{$self->{jobs}};
  return unless $job;
  return if sysread $handle, $job->{answer}, 1_024, length $job->{answer};
  close delete $job->{pipe};
  $self->finish($job, $job->{answer});
  $self->begin;
}

sub finish {
  my ($self, $job, $answer) = @_;
  delete $self->{jobs}{$job->{path}};
  my ($kept) = $answer =~ /^kept ([0-9a-f]{64}-[0-9a-f]{64})\z/;
  my ($code, $why) = $answer =~ /^(\d) (.+)/s;
  for my $done (@{$job->{done}}) {
    if (defined $kept && sysopen my $file, $kept, O_RDONLY | O_NOFOLLOW) { binmode $file; $done->($file) }
    else { $done->(undef, $code // Packets::OTHER, $why // 'it could not be fetched') }
  }
}

# In the process of its own. Dies with a code of TFTP and a reason.
sub fetch {
  my ($address, $port, $path) = @_;
  my $name = sha256_hex($path);
  my ($old) = glob "$name-*";
  my $socket = IO::Socket::INET->new(PeerAddr => $address, PeerPort => $port, Proto => 'tcp', Timeout => CONNECT_SECONDS)
    or die "0 the relay at the frontend's site does not answer ($address:$port: $!)\n";
  my $escaped = $path =~ s{([^A-Za-z0-9._~/-])}{sprintf '%%%02X', ord $1}ger;
  my $known = defined $old ? 'If-None-Match: "' . substr($old, 65) . "\"\r\n" : '';
  syswrite $socket, "GET /$escaped HTTP/1.0\r\nHost: $address\r\n$known\r\n";
  my ($buffer, $head) = '';
  until (($head) = $buffer =~ /\A(.*?\r\n)\r\n/s) {
    die "0 the relay's answer has no end\n" if length $buffer > HEAD_BYTES_MAX;
    sysread $socket, $buffer, READ_BYTES, length $buffer or die "0 the relay broke off\n";
  }
  my ($status) = $head =~ m{\AHTTP/1\.[01] (\d{3}) } or die "0 the relay's answer is none\n";
  if ($status == 304 && defined $old) { utime undef, undef, $old; return "kept $old" }
  die Packets::NOT_FOUND . " no such file\n" if $status == 404;
  die Packets::DENIED . " the frontend does not give it\n" if $status == 403;
  die "0 the frontend's TFTP failed: the relay says $status\n" if $status != 200;
  my ($length) = $head =~ /\r\nContent-Length: (\d{1,9})\r\n/i or die "0 the relay's answer has no length\n";
  my ($digest) = $head =~ /\r\nETag: "([0-9a-f]{64})"\r\n/i or die "0 the relay's answer has no digest\n";
  die "0 it is larger than a file by TFTP may be\n" if $length > FILE_BYTES_MAX;
  make_room($length);
  my $sum = Digest::SHA->new(256);
  substr($buffer, 0, length($head) + 2) = '';
  unlink "$name.new";
  open my $file, '>:raw', "$name.new" or die Packets::FULL . " it cannot be kept: $!\n";
  while (1) {
    $sum->add($buffer);
    print {$file} $buffer or die Packets::FULL . " it cannot be kept: $!\n";
    $length -= length $buffer;
    last if $length <= 0;
    sysread $socket, $buffer, $length < READ_BYTES ? $length : READ_BYTES or die "0 the relay broke off\n";
  }
  close $file or die Packets::FULL . " it cannot be kept: $!\n";
  if ($length != 0 || $sum->hexdigest ne $digest) { unlink "$name.new"; die "0 it did not arrive as it was sent\n" }
  unlink $old if defined $old;
  rename "$name.new", "$name-$digest" or die "0 it cannot be kept: $!\n";
  return "kept $name-$digest";
}

# What was not asked for the longest goes first; whoever is sending it has it open.
sub make_room {
  my ($needed) = @_;
  my @kept = sort { (stat $a)[9] <=> (stat $b)[9] } grep { -f } glob '*-*';
  my $sum = $needed;
  $sum += -s $_ // 0 for @kept;
  while ($sum > KEPT_BYTES_MAX && @kept) { my $old = shift @kept; $sum -= -s $old // 0; unlink $old }
}

1;
