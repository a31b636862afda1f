#!/usr/bin/perl
# Does one step after the other, each in the network namespace that it names, and stops at the first that fails.
# Steps come by standard input as netstrings (LENGTH:BYTES,), the last of which is `end`:
#   run NAMESPACE OK INPUT COUNT ARGUMENT...   a program; OK: exit codes that are no failure, with blanks between
#   write NAMESPACE KEY VALUE ABSENT           a key under /proc/sys/net/ipv6/conf; ABSENT 1: one that is not there is as good
# An empty namespace is that of this process. Nothing is done before all steps were read. When a step fails it
# prints: its number from 0, the exit code or `-`, and what the program said; and ends with 3.
# It does no further step once the process that started it has gone: whoever comes after that one looks and acts by itself.
# No modules but Config: loading one takes longer than most steps.
use strict;
use warnings;
use Config;
use constant { CLONE_NEWNET => 0x40000000, ENOENT => 2, EINTR => 4, FAILED => 3 };

my %numbers = (x86_64 => [308, 319], aarch64 => [268, 279], riscv64 => [268, 279], powerpc64le => [350, 360], s390x => [339, 350]);
my ($machine) = $Config{archname} =~ /^([^-]+)/;
my ($setns, $memfd_create) = @{$numbers{$machine} // die "the numbers of setns and memfd_create on $machine are not known\n"};
my $parent = getppid;
my $child = 0;
$SIG{TERM} = $SIG{INT} = sub {
  if ($child) {
    kill 'KILL', $child;
    waitpid $child, 0;
  }
  exit 143;
};

binmode STDIN;
my $text = do { local $/; <STDIN> } // '';
my @fields;
while ($text =~ /\G(\d+):/gc) {
  push @fields, substr $text, pos $text, $1;
  pos($text) += $1;
  $text =~ /\G,/gc or die "steps that cannot be read\n";
}
die "steps that do not end\n" unless @fields && pop(@fields) eq 'end' && pos($text) == length $text;

my @steps;
while (@fields) {
  my ($what, $space) = splice @fields, 0, 2;
  $space =~ /\A(?:mz-[0-9a-f]{6})?\z/ or die "not a namespace of ours: $space\n";
  if ($what eq 'run') {
    my ($ok, $input, $count) = splice @fields, 0, 3;
    my @argv = splice @fields, 0, $count;
    ($argv[0] // '') =~ m{\A(?:/[^\0]*/)?(?:ip|bridge|nft)\z} or die "not a program for a step\n";
    push @steps, [$what, $space, $ok, $input, @argv];
  } elsif ($what eq 'write') {
    my ($key, $value, $absent) = splice @fields, 0, 3;
    $key =~ m{\A[A-Za-z0-9][A-Za-z0-9._-]*/[a-z0-9_]+\z} or die "not a key of a link: $key\n";
    push @steps, [$what, $space, $key, $value, $absent];
  } else {
    die "no step $what\n";
  }
}

sub failed {
  my ($number, $code, $said) = @_;
  $| = 1;
  print "$number $code $said";
  exit FAILED;
}

sub enter {
  my ($space) = @_;
  return if $space eq '';
  open(my $file, '<', "/run/netns/$space") or die "/run/netns/$space: $!\n";
  syscall($setns, fileno $file, CLONE_NEWNET) == 0 or die "entering $space: $!\n";
}

# a file without a name: neither a full pipe nor a program that does not read can hold this up
sub scratch {
  my $name = 'step';
  my $number = syscall($memfd_create, $name, 0);
  die "memfd_create: $!\n" if $number < 0;
  open(my $file, '+<&=', $number) or die "memfd_create: $!\n";
  return $file;
}

sub write_key {
  my ($key, $value, $absent) = @_;
  my $path = "/proc/sys/net/ipv6/conf/$key";
  open(my $file, '>', $path) or return $absent && $! == ENOENT ? () : die "$path: $!\n";
  (syswrite($file, $value) // -1) == length $value or die "$path: $!\n";
}

# @returns the exit code, or `-`, and what the program said
sub work {
  my ($space, $input, $todo) = @_;
  my ($in, $out) = (scratch(), scratch());
  syswrite $in, $input;
  sysseek $in, 0, 0;
  $child = fork // die "fork: $!\n";
  if ($child == 0) {
    $SIG{TERM} = $SIG{INT} = 'DEFAULT';
    open(STDIN, '<&', $in) && open(STDOUT, '>&', $out) && open(STDERR, '>&', $out) or exit 127;
    eval { enter($space); $todo->(); 1 } or syswrite STDERR, $@;
    exit 127;
  }
  1 while waitpid($child, 0) < 0 && $! == EINTR;
  my $status = $?;
  $child = 0;
  sysseek $out, 0, 0;
  sysread $out, my $said, 1 << 14;
  return ($status & 127 ? '-' : $status >> 8, $said);
}

for my $number (0 .. $#steps) {
  my ($what, $space, @rest) = @{$steps[$number]};
  exit FAILED if getppid != $parent;
  my ($ok, $input, @argv) = $what eq 'run' ? @rest : ('0', '');
  # in a child also where nothing is started: this process stays where it is
  my ($code, $said) = eval { work($space, $input, $what eq 'run' ? sub { exec { $argv[0] } @argv or die "$argv[0]: $!\n" } : sub { write_key(@rest); exit 0 }) };
  failed($number, '-', $@) unless defined $code;
  failed($number, $code, $said) unless grep { $_ eq $code } split / /, $ok;
}
