package Orders;
# What is to be fetched before nodes ask. Orders are files of root's, a line each: host NAME, rate MBITPERS, cap MBITPERS (of all orders), pause REASON,
# follow KIND PORT PATH (an index), preheat KIND PORT PATH (an index, and all that it names), object PORT PATH SIZE SHA256.
use strict;
use warnings;
use Digest::SHA;
use Time::HiRes ();

use constant PARALLEL => 4;
use constant TRIES => 3;
use constant RETRY_SECONDS => 5;
use constant NOT_KEPT => 'it is not kept by this cache: neither its name nor a validator tells what it is';
use constant OBJECTS_MAX => 50_000;
use constant FILE_BYTES_MAX => 33_554_432;

sub new {
  my ($class, %given) = @_; # dir, ports, slice, host, denied => called with (port, path, sha256, bytes) of what is not what its index says
  return bless { %given, orders => {}, running => 0, tokens => 0, at => Time::HiRes::time(), check => { name => '', rate => 0, all => {}, jobs => [], objects => 0, bytes => 0, fetched => 0, done => 0, doneBytes => 0, failed => [], failures => 0 }, checked => {} }, $class;
}

# Reads orders that are new or others than before. Returns the indexes that they name, or nothing when all is as it was.
sub look {
  my ($self) = @_;
  opendir(my $dir, $self->{dir}) or return;
  my %found = map { my @stat = stat "$self->{dir}/$_"; ($_ => "@stat[1, 7, 9]") } grep { /^[A-Za-z0-9._-]{1,128}\.tsv$/ } readdir $dir;
  my $changed = 0;
  for my $name (keys %{$self->{orders}}) { delete $self->{orders}{$name}, $changed = 1 unless $found{$name} }
  for my $name (keys %found) {
    next if $self->{orders}{$name} && $self->{orders}{$name}{stamp} eq $found{$name};
    $self->{orders}{$name} = $self->order($name, $found{$name}, $self->{orders}{$name});
    $changed = 1;
  }
  return $changed ? [map { @{$_->{indexes}} } values %{$self->{orders}}] : undef;
}

sub order {
  my ($self, $name, $stamp, $before) = @_;
  my $order = { name => $name, stamp => $stamp, rate => 0, cap => 0, pause => '', indexes => [], jobs => [], all => {}, objects => 0, bytes => 0, fetched => 0, done => 0, doneBytes => 0, failed => [], failures => 0 };
  my $path = "$self->{dir}/$name";
  return $order if -s $path > FILE_BYTES_MAX;
  open(my $file, '<', $path) or return $order;
  while (<$file>) {
    chomp;
    my ($what, @rest) = split /\t/;
    if ($what eq 'rate') { $order->{rate} = $rest[0] }
    elsif ($what eq 'pause') { $order->{pause} = $rest[0] }
    elsif ($what eq 'cap') { $order->{cap} = $rest[0] }
    elsif ($what eq 'object') { $self->job($order, @rest) }
    elsif ($what eq 'follow' || $what eq 'preheat') {
      my ($kind, $port, $at) = @rest;
      next unless $self->{ports}{$port};
      my $index = { kind => $kind, port => $port, path => $at };
      $index->{parsed} = sub { $index->{read} = 1; $self->listed($order, $port, @_) } if $what eq 'preheat';
      push @{$order->{indexes}}, $index;
    }
  }
  # only a pause, or a rate: what was done stays done
  $self->adopt($order, $before) if $before;
  return $order;
}

sub adopt {
  my ($self, $order, $before) = @_;
  for my $key (keys %{$before->{all}}) {
    my $job = $before->{all}{$key};
    if (my $own = $order->{all}{$key}) { $own->{state} = $job->{state} if $job->{state} eq 'done' }
    elsif ($job->{listed}) { $order->{all}{$key} = $job; $order->{objects}++; $order->{bytes} += $job->{size} // 0 }
  }
  @$order{qw(done doneBytes)} = (0, 0);
  for my $job (values %{$order->{all}}) { next unless $job->{state} eq 'done'; $order->{done}++; $order->{doneBytes} += $job->{size} // 0 }
  $order->{jobs} = [sort { $a->{number} <=> $b->{number} } grep { $_->{state} ne 'done' } values %{$order->{all}}];
  $_->{state} = 'waiting' for @{$order->{jobs}};
  $order->{fetched} = $before->{fetched};
  for my $index (@{$order->{indexes}}) { $index->{read} = 1 if grep { $_->{read} && "$_->{kind} $_->{port} $_->{path}" eq "$index->{kind} $index->{port} $index->{path}" } @{$before->{indexes}} }
}

sub job {
  my ($self, $order, $port, $path, $size, $sha256, $listed) = @_;
  return if !$self->{ports}{$port} || $order->{objects} >= OBJECTS_MAX || $order->{all}{"$port $path"};
  my $job = { port => $port, path => $path, size => $size =~ /^\d+$/ ? $size : undef, sha256 => $sha256 =~ /^[0-9a-f]{64}$/ ? $sha256 : undef, listed => $listed, tries => 0, due => 0, state => 'waiting', number => ++$self->{number} };
  $order->{all}{"$port $path"} = $job;
  push @{$order->{jobs}}, $job;
  $order->{objects}++;
  $order->{bytes} += $job->{size} // 0;
}

sub listed {
  my ($self, $order, $port, $lists, $prefix) = @_;
  for my $list (@$lists) {
    open(my $file, '<', $list) or next;
    while (<$file>) {
      chomp;
      my ($path, $size, $sha256) = split /\t/;
      $self->job($order, $port, $path =~ m{^/} ? $path : "$prefix$path", $size, $sha256, 1);
    }
  }
}

# What nodes were the first to get under a digest: read back once, and compared with it.
sub check {
  my ($self, $port, $path, $sha256) = @_;
  my $check = $self->{check};
  return if $self->{checked}{$sha256} || @{$check->{jobs}} >= OBJECTS_MAX;
  delete $check->{all}{"$port $path"};
  $self->job($check, $port, $path, '', $sha256);
  $check->{objects} = 0;
}

# Starts what may start now.
sub turn {
  my ($self, $add) = @_;
  my $now = Time::HiRes::time();
  my ($cap) = sort { $a <=> $b } grep { $_ } map { $_->{cap} } values %{$self->{orders}};
  $self->{share} = $cap ? ($self->{share} // 0) + ($now - $self->{at}) * $cap * 125_000 : 1;
  $self->{share} = $cap * 125_000 if $cap && $self->{share} > $cap * 125_000;
  for my $order (sort { $a->{name} cmp $b->{name} } values %{$self->{orders}}) {
    next if $order->{pause} ne '';
    $order->{tokens} = $order->{rate} ? ($order->{tokens} // 0) + ($now - $self->{at}) * $order->{rate} * 125_000 : 1;
    my $most = $order->{rate} * 125_000;
    $order->{tokens} = $most if $order->{rate} && $order->{tokens} > $most;
    while ($self->{running} < PARALLEL && $order->{tokens} > 0 && $self->{share} > 0) { last unless $self->begin($add, $order, $now) }
  }
  # one at a time, and only while there is nothing to fetch
  $self->begin($add, $self->{check}, $now) unless $self->{running};
  $self->{at} = $now;
}

sub begin {
  my ($self, $add, $order, $now) = @_;
  my $jobs = $order->{jobs};
  my ($at) = grep { $jobs->[$_]{due} <= $now } 0 .. ($#$jobs < 63 ? $#$jobs : 63);
  return 0 unless defined $at;
  my ($job) = splice @$jobs, $at, 1;
  $self->{running}++;
  $job->{from} = 0;
  $job->{sha} = defined $job->{sha256} ? Digest::SHA->new(256) : undef;
  $self->part($add, $order, $job);
  return 1;
}

sub part {
  my ($self, $add, $order, $job) = @_;
  $job->{state} = 'running';
  $add->({
    listen => $self->{ports}{$job->{port}}, host => $self->{host}, path => $job->{path}, range => "$job->{from}-" . ($job->{from} + $self->{slice} - 1),
    sink => sub {
      my ($data, $request) = @_;
      return "the frontend answers $request->{status}" unless $request->{status} == 206 || $request->{status} == 200 && $job->{from} == 0;
      return NOT_KEPT if $request->{store} eq '';
      return 'the engine does not know the index yet' if $job->{listed} && $request->{way} ne 'listed';
      $job->{sha}->add($data) if $job->{sha};
      return undef;
    },
    done => sub {
      my ($request) = @_;
      if ($request->{store} eq 'MISS') { $order->{fetched} += $request->{bytes}; $order->{tokens} -= $request->{bytes} if $order->{rate}; $self->{share} -= $request->{bytes} }
      my $total = $request->{total} // $request->{bytes};
      my $error = $request->{error} // ($request->{status} !~ /^20[06]$/ ? "the frontend answers $request->{status}" : undef);
      # asked again they say the same
      $job->{tries} = TRIES if $request->{status} =~ /^4/ || $error && $error eq NOT_KEPT;
      return $self->failed($order, $job, $error) if $error;
      $job->{from} = $request->{status} == 200 ? $total : $job->{from} + $request->{bytes};
      return $self->part($add, $order, $job) if $job->{from} < $total;
      return $self->wrong($order, $job, $total) if $job->{sha} && $job->{sha}->hexdigest ne $job->{sha256};
      $self->{checked}{$job->{sha256}} = 1 if $job->{sha256} && keys %{$self->{checked}} < OBJECTS_MAX;
      $self->{running}--;
      $job->{state} = 'done';
      $order->{done}++;
      $order->{bytes} += $total, $job->{size} = $total unless defined $job->{size};
      $order->{doneBytes} += $job->{size};
    }
  });
}

sub wrong {
  my ($self, $order, $job, $total) = @_;
  $self->{denied}->($job->{port}, $job->{path}, $job->{sha256}, $total);
  $job->{tries} = TRIES;
  $self->failed($order, $job, 'it is not what its index says');
}

sub failed {
  my ($self, $order, $job, $error) = @_;
  $self->{running}--;
  if (++$job->{tries} < TRIES) {
    $job->{state} = 'waiting';
    $job->{due} = Time::HiRes::time() + RETRY_SECONDS * $job->{tries};
    return push @{$order->{jobs}}, $job;
  }
  $job->{state} = 'failed';
  $order->{failures}++;
  push @{$order->{failed}}, [$job->{path}, $error] if @{$order->{failed}} < 20;
}

1;
