#!/usr/bin/perl
# usage: keeper.pl FILE TABLE SET PORT LIFETIME_MS RENEW_MS LOOK_MS
# Keeps the forwarding leases of this gateway alive: for every cluster's namespace that FILE names, and as long as
# FILE says, it puts PORT into the nft SET of TABLE (family bridge), for LIFETIME_MS and never beyond that term.
# It is part of neither agent nor helper: segments go on without them, and end when it ends, or the term does.
# FILE counts for the boot that it names only; one that cannot be understood counts for nothing. Times are
# milliseconds since boot (CLOCK_BOOTTIME, as /proc/uptime has it): whoever sets the clock on the wall changes nothing.
# No modules but Config, and no other program is started: it must go on where neither memory nor processes are left.
use strict;
use warnings;
use Config;
use constant { CLONE_NEWNET => 0x40000000, O_NONBLOCK => 04000, ENOENT => 2 };
use constant { AF_NETLINK => 16, SOCK_RAW => 3, NETLINK_NETFILTER => 12, SOL_SOCKET => 1, SO_RCVTIMEO => 20, NLMSG_ERROR => 2 };
use constant { REQUEST => 1, ACK => 4, CREATE => 0x400, NESTED => 0x8000, HEADER_BYTES => 16 };
# linux/netfilter/nfnetlink.h and nf_tables.h
use constant { BATCH_BEGIN => 0x10, BATCH_END => 0x11, NFTABLES => 10, NEWSETELEM => 10 << 8 | 12, DELSETELEM => 10 << 8 | 14, BRIDGE => 7 };
use constant { LIST_TABLE => 1, LIST_SET => 2, LIST_ELEMENTS => 3, LIST_ELEM => 1, ELEM_KEY => 1, ELEM_TIMEOUT => 4, DATA_VALUE => 1, NAME_BYTES => 16 };
use constant { FILE_BYTES_MAX => 1 << 20, ANSWER_SECONDS => 2 };

my ($file, $table, $set, $port, $lifetime, $renew, $look) = @ARGV;
die "usage: keeper.pl FILE TABLE SET PORT LIFETIME_MS RENEW_MS LOOK_MS\n" unless defined $look;
# setns has no name in perl; the ABI is that of the perl that runs this
my %numbers = (x86_64 => 308, aarch64 => 268, riscv64 => 268, powerpc64le => 350, s390x => 339);
my ($machine) = $Config{archname} =~ /^([^-]+)/;
my $setns = $numbers{$machine} or die "the number of setns on $machine is not known\n";
open(my $own, '<', '/proc/self/ns/net') or die "own namespace: $!\n";
my ($boot) = slurp('/proc/sys/kernel/random/boot_id') =~ /\A([0-9a-f-]{36})\n\z/ or die "no boot id\n";
setpriority(0, 0, -10); # a busy host is not a dead one; where it is not allowed, so be it
$| = 1;

my $sequence = 0;
# by namespace: when it was last renewed, and until when it was to go on
my %held;
my %told;

for (;;) {
  my $found = terms();
  # what cannot be read closes nothing at once, and prolongs nothing
  my %until = defined $found ? %$found : ();
  for my $name (sort keys %until) {
    my $have = $held{$name};
    next if $have && now() - $have->[0] < $renew && $have->[1] == $until{$name};
    my $left = $until{$name} - now();
    $left = $lifetime if $left > $lifetime;
    # twice: an element may run out between being found and being replaced
    my $wrong = $left < 1 ? '' : within($name, sub { put($left) && put($left) });
    $held{$name} = [now(), $until{$name}] if $wrong eq '';
    report($name, $wrong);
  }
  for my $name (grep { defined $found && !exists $until{$_} } keys %held) {
    within($name, sub { batch(DELSETELEM, 0) });
    delete $held{$name};
    delete $told{$name};
  }
  select(undef, undef, undef, $look / 1000);
}

sub slurp {
  my ($path) = @_;
  $! = 0;
  open(my $handle, '<', $path) or return '';
  my $text = '';
  read($handle, $text, FILE_BYTES_MAX + 1);
  return $text;
}

# milliseconds since boot, those of a suspended machine included; it shows hundredths of a second
sub now {
  my ($seconds, $hundredths) = slurp('/proc/uptime') =~ /\A(\d+)\.(\d\d) / or die "no time\n";
  return $seconds * 1000 + $hundredths * 10;
}

# @returns what is to be kept open, by namespace; undef when a single line is not as it should be
sub terms {
  my $text = slurp($file);
  return $! == ENOENT ? {} : undef if $text eq '';
  return undef if length $text > FILE_BYTES_MAX || $text !~ s/\Amusubi-forward 1\nboot \Q$boot\E\n//;
  my ($now, %until) = (now());
  for my $line (split /\n/, $text) {
    my ($name, $end) = $line =~ /\A(mz-[0-9a-f]{6}) ([0-9]{1,15}) [A-Za-z0-9][A-Za-z0-9._-]{0,127}\z/ or return undef;
    $until{$name} = $end if $end > $now;
  }
  return \%until;
}

# once for each change
sub report {
  my ($name, $wrong) = @_;
  print STDERR "$name: $wrong\n" if $wrong ne '' && $wrong ne ($told{$name} // '');
  $told{$name} = $wrong;
}

# @returns what went wrong, empty when nothing did
sub within {
  my ($name, $work) = @_;
  # a name may lead anywhere: to a pipe, which would not open until somebody writes
  sysopen(my $space, "/run/netns/$name", O_NONBLOCK) or return "no namespace: $!";
  return "no namespace: $!" if syscall($setns, fileno $space, CLONE_NEWNET) != 0;
  my $wrong = eval { $work->() } // $@;
  # it must not keep a namespace alive that is to go
  die "cannot return: $!\n" if syscall($setns, fileno $own, CLONE_NEWNET) != 0;
  chomp $wrong;
  return $wrong;
}

# Kernels before 6.12 do not prolong an element that is added again: it is replaced, in one transaction.
sub put {
  my ($left) = @_;
  return batch(NEWSETELEM, 0, DELSETELEM, 0, NEWSETELEM, $left);
}

sub attribute {
  my ($type, $value) = @_;
  my $bytes = 4 + length $value;
  return pack('S S', $bytes, $type) . $value . "\0" x (-$bytes % 4);
}

sub message {
  my ($type, $flags, $family, $subsystem, $body) = @_;
  return pack('L S S L L', HEADER_BYTES + 4 + length $body, $type, $flags, ++$sequence, 0) . pack('C C n', $family, 0, $subsystem) . $body;
}

# One transaction of the kernel's, over pairs of what is done to the element and its time-out (0: none).
# @returns what went wrong, empty when nothing did
sub batch {
  my @steps = @_;
  my $text = message(BATCH_BEGIN, REQUEST, 0, NFTABLES, '');
  while (my ($type, $timeout) = splice @steps, 0, 2) {
    my $key = attribute(ELEM_KEY | NESTED, attribute(DATA_VALUE, pack('a' . NAME_BYTES, $port)));
    my $element = $key . ($timeout > 0 ? attribute(ELEM_TIMEOUT, pack 'Q>', $timeout) : '');
    my $body = attribute(LIST_TABLE, "$table\0") . attribute(LIST_SET, "$set\0") . attribute(LIST_ELEMENTS | NESTED, attribute(LIST_ELEM | NESTED, $element));
    $text .= message($type, REQUEST | ($type == NEWSETELEM ? CREATE : 0) | (@steps == 0 ? ACK : 0), BRIDGE, 0, $body);
  }
  my $last = $sequence;
  $text .= message(BATCH_END, REQUEST, 0, NFTABLES, '');
  socket(my $socket, AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER) or return "socket: $!";
  setsockopt($socket, SOL_SOCKET, SO_RCVTIMEO, pack 'l! l!', ANSWER_SECONDS, 0) or return "SO_RCVTIMEO: $!";
  syswrite($socket, $text) // return "asking: $!";
  for (;;) {
    recv($socket, my $part, 1 << 16, 0) // return "no answer: $!";
    while (length $part >= HEADER_BYTES) {
      my ($bytes, $kind, $flags, $number) = unpack 'L S S L', $part;
      return 'an answer that cannot be read' if $bytes < HEADER_BYTES || $bytes > length $part;
      my $answer = substr $part, 0, $bytes + -$bytes % 4, '';
      next if $kind != NLMSG_ERROR;
      my $error = unpack 'x16 l', $answer;
      if ($error != 0) {
        $! = -$error;
        return "the kernel refuses: $!";
      }
      return '' if $number == $last;
    }
  }
}
