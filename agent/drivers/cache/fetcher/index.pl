#!/usr/bin/perl
# usage: index.pl KIND FILE
#        index.pl listed DENIED {PORT PREFIX LIST}...
# Reads an index and prints what it names, a line each: PATH, SIZE, SHA256, separated by tabs. Of `repomd` and
# `release` these are further indexes. PATHs are relative to the repository; of a `manifest` they are absolute.
# The second form makes nginx's map from such lists: what two of them name differently is in it under neither digest.
# A process of its own: an index may be large, and what reads it need not stay so.
use strict;
use warnings;

use constant LINES_MAX => 100_000;
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

# Elements one at a time, however the lines are broken.
sub elements {
  my ($handle, $name, $each) = @_;
  local $/ = "</$name>";
  while (my $text = <$handle>) {
    die "an element of the index has no end\n" if length $text > 1_048_576 * 16;
    $each->($text) if $text =~ /<\Q$name\E[\s>]/;
  }
}

sub repomd {
  elements($_[0], 'data', sub {
    my ($text) = @_;
    return unless $text =~ /<data[^>]*type="primary"/;
    my ($path) = $text =~ /<location[^>]*href="([^"]+)"/;
    my ($size) = $text =~ /<size>(\d+)</;
    my ($sha256) = $text =~ /<checksum[^>]*type="sha256"[^>]*>\s*([0-9a-f]{64})\s*</;
    named($path, $size, $sha256);
  });
}

sub primary {
  elements($_[0], 'package', sub {
    my ($text) = @_;
    my ($path) = $text =~ /<location[^>]*href="([^"]+)"/;
    my ($size) = $text =~ /<size[^>]*package="(\d+)"/;
    my ($sha256) = $text =~ /<checksum[^>]*type="sha256"[^>]*>\s*([0-9a-f]{64})\s*</;
    named($path, $size, $sha256);
  });
}

sub release {
  my ($handle) = @_;
  my ($inside, %best);
  my %rank = (xz => 2, gz => 1);
  while (<$handle>) {
    $inside = /^SHA256:/, next unless /^ /;
    next unless $inside && m{^ ([0-9a-f]{64}) +(\d+) +(\S*Packages)\.(xz|gz)$};
    $best{$3} = [$rank{$4}, "$3.$4", $2, $1] unless $best{$3} && $best{$3}[0] > $rank{$4};
  }
  named($_->[1], $_->[2], $_->[3]) for map { $best{$_} } sort keys %best;
}

sub packages {
  my ($handle) = @_;
  local $/ = '';
  while (my $text = <$handle>) {
    my %field = $text =~ /^(Filename|Size|SHA256): *(\S+)/mg;
    named(@field{qw(Filename Size SHA256)});
  }
}

sub manifest {
  my ($handle) = @_;
  require JSON::PP;
  local $/;
  my $text = <$handle> // '';
  die "it is larger than 16 MiB\n" if length $text > 16 * 1_048_576;
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
      $digest{$key} = defined $digest{$key} && $digest{$key} ne $sha256 ? '' : $sha256;
      die 'indexes name more than ' . LINES_MAX . " objects together\n" if keys %digest > LINES_MAX;
    }
  }
  my %owner;
  for my $key (keys %digest) { for my $name (spellings($key)) { push @{$owner{lc $name}}, $name } }
  for my $key (sort keys %digest) {
    next if $digest{$key} eq '';
    for my $name (spellings($key)) { print qq("$name" "$digest{$key} $name";\n) if @{$owner{lc $name}} == 1 }
  }
  return close STDOUT ? 0 : 1;
}
