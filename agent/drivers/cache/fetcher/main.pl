#!/usr/bin/perl
# usage: main.pl ENGINEFOLDER ORDERSFOLDER SLICEBYTES HOST PORT:LISTENPORT...
# Runs beside the engine, as its user: fetches parts of objects ahead of nodes, and what orders name before nodes ask;
# follows indexes; reads back what came under a digest; sees whether there is room to store. Whatever it does not do,
# nodes do by asking. It is not part of the agent, so it goes on without one.
use strict;
use warnings;
BEGIN { my ($folder) = $0 =~ m{^(.*)/}; unshift @INC, $folder // '.' }
use Ahead;
use Clock;
use Http;
use Indexes;
use Orders;

use constant AHEAD_PARALLEL => 12;
use constant PARALLEL => 16;
use constant LOOK_SECONDS => 0.05;
use constant ROOM_SECONDS => 1;
use constant ROOM_BYTES => 16_384;
use constant ROOM_WRITES => 16;
use constant WORKERS_MAX => 10; # the engine's processes: each that still serves somebody has a list of its own

my ($engine, $orders_dir, $slice, $host, @pairs) = @ARGV;
my %ports = map { split /:/ } @pairs;
die "usage: main.pl ENGINEFOLDER ORDERSFOLDER SLICEBYTES HOST PORT:LISTENPORT...\n" unless %ports && $slice =~ /^\d+$/;
my ($folder) = $0 =~ m{^(.*)/};
$SIG{PIPE} = 'IGNORE';
umask 0077;

my $orders = Orders->new(dir => $orders_dir, ports => \%ports, slice => $slice, host => $host, denied => \&denied);
my $ahead = Ahead->new(log => "$engine/parts.log", slice => $slice, ports => \%ports, listed => sub { $orders->check(@_) }, denied => \&denied);
my $indexes = Indexes->new(dir => $engine, ports => \%ports, host => $host, program => "$folder/index.pl", ahead => $ahead, changed => \&relist);
my ($looked, $roomed, $told) = (0, 0, '');
my $add = sub { Http::start($_[0]) };
my $under_way = 0;

while (1) {
  my $now = time;
  if ($now - $roomed > ROOM_SECONDS) { room(); $roomed = $now }
  if ($now - $looked > 1) {
    my $wanted = $orders->look;
    $indexes->follow(@$wanted) if $wanted;
    progress();
    $looked = $now;
  }
  $ahead->look;
  while ($under_way < AHEAD_PARALLEL && Http::running() < PARALLEL) {
    my $request = $ahead->next or last;
    my $done = $request->{done};
    $under_way++;
    $add->({ %$request, done => sub { $under_way--; $done->(@_) } });
  }
  my $listed = $indexes->{lines};
  $indexes->turn($add);
  # whoever makes the cache waits for it
  progress() if $indexes->{lines} != $listed;
  $orders->turn($add);
  Http::turn(LOOK_SECONDS);
}

# While nothing can be written, nothing is kept: a store that is full would end downloads half-way. A store that
# was deleted is made again, as the engine makes no folder above those of its own.
sub room {
  mkdir "$engine/store", 0700 unless -d "$engine/store";
  my $test = "$engine/room.test";
  my $ok = open(my $file, '>', $test);
  for (1 .. ROOM_WRITES) { $ok &&= (syswrite($file, "\0" x ROOM_BYTES) // 0) == ROOM_BYTES }
  $ok &&= close $file;
  unlink $test;
  if (!$ok) { warn "there is no room in $engine: nothing is kept until there is\n" if unlink "$engine/room" }
  elsif (!-f "$engine/room") { open(my $mark, '>', "$engine/room") }
}

# What is not what its index says goes, and is asked for with a validator from then on.
sub denied {
  my ($port, $path, $sha256, $bytes) = @_;
  warn "$path is not the object with SHA-256 $sha256 that an index names\n";
  require Digest::MD5; # seldom needed
  for (my $from = 0; $from < $bytes; $from += $slice) {
    my $name = Digest::MD5::md5_hex("L $sha256 bytes=$from-" . ($from + $slice - 1));
    unlink "$engine/store/" . substr($name, -1) . '/' . substr($name, -3, 2) . "/$name";
  }
  open(my $file, '>>', "$engine/denied") or return;
  print {$file} "$port:$path $sha256\n" if -s $file < 1_048_576;
  close $file;
  $indexes->{dirty} = 1;
}

sub relist {
  my ($new) = @_;
  my $same = slurp($new) eq slurp("$engine/listed.map");
  $indexes->{found} = () = slurp($new) =~ /\n/g;
  if ($same) { unlink $new; return 1 }
  my ($pid) = slurp("$engine/nginx.pid") =~ /^(\d+)$/;
  # whoever changes the list again and again, and holds each worker by a request, is not to fill the memory with them
  if (defined $pid && (() = slurp("/proc/$pid/task/$pid/children") =~ /\d+/g) >= WORKERS_MAX) { unlink $new; return 0 }
  rename $new, "$engine/listed.map" or return !warn "listed.map: $!\n";
  # whatever stands there: no signal to a process of another user
  kill 'HUP', $pid if defined $pid && ((stat "/proc/$pid")[4] // -1) == $>;
  return 1;
}

sub slurp {
  my ($path) = @_;
  open(my $file, '<', $path) or return '';
  local $/;
  return <$file> // '';
}

sub quoted {
  my ($text) = @_;
  $text =~ s/([^\x20-\x7e]|["\\])/sprintf '\\u%04x', ord $1/ge;
  return qq("$text");
}

sub progress {
  my @orders = map {
    my $order = $_;
    my $unread = grep { $_->{parsed} && !$_->{read} } @{$order->{indexes}};
    my $state = $order->{pause} ne '' ? 'paused' : $unread || @{$order->{jobs}} || grep({ $_->{state} eq 'running' } values %{$order->{all}}) ? 'running' : 'done';
    my $failed = join ',', map { '{"path":' . quoted($_->[0]) . ',"error":' . quoted($_->[1]) . '}' } @{$order->{failed}};
    my $errors = join ',', map { '{"path":' . quoted($_->{path}) . ',"error":' . quoted($_->{error}) . '}' } grep { $_->{error} } map { my $i = $_; grep { $_->{kind} eq $i->{kind} && $_->{path} eq $i->{path} } values %{$indexes->{follow}} } @{$order->{indexes}};
    quoted($order->{name} =~ s/\.tsv$//r) . qq(:{"state":"$state","reason":${\ quoted($order->{pause})},"objects":$order->{objects},"objectsDone":$order->{done},"bytes":$order->{bytes},"bytesDone":$order->{doneBytes},"bytesFetched":$order->{fetched},"failures":$order->{failures},"failed":[$failed],"indexErrors":[$errors]})
  } sort { $a->{name} cmp $b->{name} } values %{$orders->{orders}};
  my $text = '{"orders":{' . join(',', @orders) . qq(},"aheadParts":$ahead->{parts},"aheadBytes":$ahead->{bytes},"listed":$indexes->{lines},"room":) . (-f "$engine/room" ? 'true' : 'false') . "}\n";
  return if $text eq $told;
  open(my $file, '>', "$engine/progress.new") or return;
  print {$file} $text;
  close $file and rename "$engine/progress.new", "$engine/progress.json" and $told = $text;
}
