#!/usr/bin/perl
# usage: index.pl KIND FILE
#        index.pl listed DENIED {PORT PREFIX LIST}...
# Reads an index and prints what it names, a line each: PATH, SIZE, SHA256, separated by tabs. Of `repomd` and
# `release` these are further indexes. PATHs are relative to the repository; of a `manifest` they are absolute.
# The second form makes nginx's map from such lists: what two of them name differently is in it under neither digest.
# A process of its own: an index may be large, and what reads it need not stay so.
use strict;
use warnings;
use IO::Handle;

use constant LINES_MAX => 100_000;
use constant BLOCK_BYTES => 65_536;
use constant RECORD_BYTES_MAX => 1_048_576;      # one package, with all that it needs and provides
use constant TEXT_BYTES_MAX => 1_073_741_824;    # unpacked: a few kilobytes may unpack to anything
use constant MANIFEST_BYTES_MAX => 16_777_216;
use constant NAME_BYTES_MAX => 518;              # a port, a colon, and the longest path that is looked up: the engine's map takes none of 1000
# nginx puts names into buckets by a hash that anybody can work out, takes no map with a bucket of 64 kB, and compares each new name
# with all of one bucket of 10007 before. Of names that are spread evenly there are less than 20 and 60 in one.
use constant { MAP_BUCKETS => 262_144, MAP_BUCKET_MAX => 64, CHECK_BUCKETS => 10_007, CHECK_BUCKET_MAX => 256 };
use constant PATH => qr{(?!.{512})/?(?:[A-Za-z0-9._:@+~-]+/)*[A-Za-z0-9._:@+~-]+};

my ($kind, $file) = @ARGV;
exit listed(@ARGV[1 .. $#ARGV]) if ($kind // '') eq 'listed';
my %readers = (repomd => \&repomd, primary => \&primary, release => \&release, packages => \&packages, manifest => \&manifest);
my $reader = $readers{$kind // ''} or die "usage: index.pl KIND FILE\n";
my $lines = 0;
$reader->(opened($file));
close STDOUT or die "the list cannot be written: $!\n";

sub opened {
  my ($path) = @_;
  my %unpack = (gz => ['gzip', '-dc'], xz => ['xz', '-dc'], zst => ['zstd', '-dcq'], bz2 => ['bzip2', '-dc']);
  my $program = $path =~ /\.(gz|xz|zst|bz2)$/ && $unpack{$1};
  my @how = $program ? ('-|', @$program, $path) : ('<', $path);
  open(my $handle, $how[0], @how[1 .. $#how]) or die "$path: $!\n";
  return $handle;
}

sub named {
  my ($path, $size, $sha256) = @_;
  return unless defined $path && $path =~ /^${\PATH}$/ && $path !~ m{(?:^|/)\.} && ($size // '') =~ /^\d{1,15}$/ && ($sha256 // '') =~ /^[0-9a-f]{64}$/;
  die 'it names more than ' . LINES_MAX . " objects\n" if ++$lines > LINES_MAX;
  print "$path\t$size\t$sha256\n";
}

# What ends with END, one at a time. Read in blocks: to Perl a text without an end is one that memory has to hold.
sub records {
  my ($handle, $end, $each) = @_;
  my ($rest, $read) = ('', 0);
  while (my $count = read $handle, $rest, BLOCK_BYTES, length $rest) {
    die "it is larger than a gigabyte when it is unpacked\n" if ($read += $count) > TEXT_BYTES_MAX;
    my $from = 0;
    while ((my $at = index $rest, $end, $from) >= 0) {
      $each->(substr $rest, $from, $at + length($end) - $from);
      $from = $at + length $end;
    }
    substr($rest, 0, $from) = '';
    die "a part of the index has no end\n" if length $rest > RECORD_BYTES_MAX;
  }
  $each->($rest) if length $rest;
}

# Elements one at a time, however the lines are broken.
sub elements {
  my ($handle, $name, $each) = @_;
  records($handle, "</$name>", sub { $each->($_[0]) if $_[0] =~ /<\Q$name\E[\s>]/ });
}

# Tags end before the next begins, and each is looked at once: a frontend may write what takes a pattern minutes.
sub sha256_in {
  my ($text) = @_;
  while ($text =~ /<checksum([^<>]*+)>\s*+([0-9a-f]{64})\s*+</g) { return $2 if index($1, 'type="sha256"') >= 0 }
  return undef;
}

sub repomd {
  elements($_[0], 'data', sub {
    my ($text) = @_;
    return unless $text =~ /<data[^<>]*type="primary"/;
    my ($path) = $text =~ /<location[^<>]*href="([^"]+)"/;
    my ($size) = $text =~ /<size>(\d+)</;
    my $sha256 = sha256_in($text);
    named($path, $size, $sha256);
  });
}

sub primary {
  elements($_[0], 'package', sub {
    my ($text) = @_;
    my ($path) = $text =~ /<location[^<>]*href="([^"]+)"/;
    my ($size) = $text =~ /<size[^<>]*package="(\d+)"/;
    my $sha256 = sha256_in($text);
    named($path, $size, $sha256);
  });
}

sub release {
  my ($handle) = @_;
  my ($inside, %best);
  my %rank = (xz => 2, gz => 1);
  records($handle, "\n", sub {
    my ($line) = @_;
    if ($line !~ /^ /) { $inside = $line =~ /^SHA256:/; return }
    return unless $inside && $line =~ m{^ ([0-9a-f]{64}) +(\d+) +(\S*Packages)\.(xz|gz)$};
    $best{$3} = [$rank{$4}, "$3.$4", $2, $1] unless $best{$3} && $best{$3}[0] > $rank{$4};
    die 'it names more than ' . LINES_MAX . " indexes\n" if keys %best > LINES_MAX;
  });
  named($_->[1], $_->[2], $_->[3]) for map { $best{$_} } sort keys %best;
}

sub packages {
  records($_[0], "\n\n", sub {
    my %field = $_[0] =~ /^(Filename|Size|SHA256): *(\S+)/mg;
    named(@field{qw(Filename Size SHA256)});
  });
}

sub manifest {
  my ($handle) = @_;
  require JSON::PP;
  my $text = '';
  while (read $handle, $text, BLOCK_BYTES, length $text) { die "it is larger than 16 MiB\n" if length $text > MANIFEST_BYTES_MAX }
  my $value = JSON::PP->new->utf8->max_depth(8)->decode($text);
  die "it has no list \"objects\"\n" unless ref $value eq 'HASH' && ref $value->{objects} eq 'ARRAY';
  for my $object (@{$value->{objects}}) {
    next unless ref $object eq 'HASH' && !grep { !defined $object->{$_} || ref $object->{$_} } qw(path size sha256);
    named(@$object{qw(path size sha256)});
  }
}

# Names with + and ~ are asked for as they are, and as apt spells them.
sub spellings {
  my ($path) = @_;
  return ($path) unless $path =~ /[+~]/;
  my $apt = $path =~ s/([+~])/sprintf '%%%02x', ord $1/ger;
  return ($path, $apt);
}

# As nginx works it out, of the name in lower case.
sub nginx_hash {
  use integer;
  my $hash = 0;
  $hash = $hash * 31 + $_ for unpack 'C*', lc $_[0];
  return $hash;
}

# Whether the engine's map has room for a name.
sub fits {
  my ($name, $buckets) = @_;
  return 0 if length $name > NAME_BYTES_MAX;
  my $hash = nginx_hash($name) & ~0;
  return 0 if ++$buckets->{'m' . $hash % MAP_BUCKETS} > MAP_BUCKET_MAX;
  return ++$buckets->{'c' . $hash % CHECK_BUCKETS} <= CHECK_BUCKET_MAX;
}

# The engine looks names up without regard to case, hence the name itself beside the digest; of two that differ in
# nothing else neither is listed.
sub listed {
  my ($denied, @lists) = @_;
  my (%digest, %wrong);
  if (open(my $handle, '<', $denied)) { while (<$handle>) { chomp; $wrong{$_} = 1 } }
  while (my ($port, $prefix, $list) = splice @lists, 0, 3) {
    open(my $handle, '<', $list) or next;
    while (<$handle>) {
      chomp;
      my ($path, undef, $sha256) = split /\t/;
      my $key = "$port:" . ($path =~ m{^/} ? $path : "$prefix$path");
      next if $wrong{"$key $sha256"};
      # beyond that nothing is new, but what is there may still be contradicted: no list at all would leave the engine with an old one
      next if !exists $digest{$key} && keys %digest >= LINES_MAX;
      $digest{$key} = defined $digest{$key} && $digest{$key} ne $sha256 ? '' : $sha256;
    }
  }
  my (%owner, %buckets);
  for my $key (keys %digest) { for my $name (spellings($key)) { push @{$owner{lc $name}}, $name } }
  for my $key (sort keys %digest) {
    next if $digest{$key} eq '';
    for my $name (spellings($key)) { print qq("$name" "$digest{$key} $name";\n) if @{$owner{lc $name}} == 1 && fits($name, \%buckets) }
  }
  # the engine does not start with half a map, which is what a host that loses its power may have
  STDOUT->flush;
  STDOUT->sync;
  return close STDOUT ? 0 : 1;
}
