package Indexes;
# Indexes on the frontend that name objects with their SHA-256. They are asked for again and again; what they
# say becomes the engine's map of paths to digests. Reading one is left to a process of its own.
use strict;
use warnings;
use Digest::SHA;
use Clock;

use constant WNOHANG => 1; # of wait(2); all of POSIX would be 2 MB of memory
use constant AGAIN_SECONDS => 60;
use constant RETRY_SECONDS => 1; # doubled up to the above
use constant { FIRST_SECONDS => 120, FIRST_RETRY_SECONDS => 2 }; # the tunnel may come a moment later, and nodes are on their way
use constant BUSY_SECONDS => 5;
use constant LIST_SECONDS_MAX => 600; # a list that nobody has confirmed for so long is none
use constant MEMORY_BYTES_MAX => 1_073_741_824; # of what reads an index
use constant LATER => 10; # nice: nodes wait for the engine
use constant SMALL_BYTES => 262_144; # nodes wait for the list as well, and what is so small is soon read
use constant RELOAD_SECONDS => 1; # until workers with the old list take no requests any more
use constant INDEX_BYTES_MAX => 268_435_456;
use constant PARTS_MAX => 64; # indexes that one index names

sub new {
  my ($class, %given) = @_; # dir, ports, host, program, ahead, changed => called with the listing file when it is another
  mkdir "$given{dir}/index", 0700;
  my $age = (stat "$given{dir}/listed.map")[9];
  return bless { %given, began => time, follow => {}, children => {}, said => {}, dirty => defined $age && CORE::time - $age > LIST_SECONDS_MAX ? 1 : 0, lines => 0 }, $class;
}

# Sets what is followed: a list of {kind, port, path, parsed}; `parsed` is called with the list of an index that is read.
sub follow {
  my ($self, @wanted) = @_;
  my %now = map { ("$_->{kind} $_->{port} $_->{path}" => $_) } @wanted;
  for my $key (keys %{$self->{follow}}) {
    next if $now{$key};
    unlink @{$self->{follow}{$key}{lists}} if $self->{follow}{$key}{lists};
    $self->{ahead}->forget($key);
    delete $self->{follow}{$key};
    $self->{dirty} = 1;
  }
  # what an earlier one of us left
  $self->{dirty} = 1 unless %now;
  for my $key (keys %now) {
    if (my $known = $self->{follow}{$key}) { @$known{qw(parsed told)} = ($now{$key}{parsed}, 0); next }
    my $number = ++$self->{number};
    $self->{follow}{$key} = { %{$now{$key}}, key => $key, number => $number, due => 0, lists => [], digest => '' };
  }
}

# Requests that are due. `add` starts one.
sub turn {
  my ($self, $add) = @_;
  $self->reap;
  for my $index (values %{$self->{follow}}) {
    next if $index->{busy} || time < $index->{due};
    $index->{busy} = 1;
    $self->get($add, $index, $index->{path}, undef, undef, sub { $self->read($add, $index, @_) });
  }
  $self->{dirty} = 1 if $self->{lines} && !-e "$self->{dir}/listed.map";
  $self->compose if $self->{dirty} && !$self->{composing} && time >= ($self->{after} // 0);
  $self->tell;
}

sub later {
  my ($self, $index, $error) = @_;
  $index->{busy} = 0;
  my $wait = $error ? RETRY_SECONDS * 2 ** ($index->{failures}++ // 0) : AGAIN_SECONDS;
  # an answer of the engine's own: the frontend was not reached
  my $first = ($error // '') =~ /^the (?:frontend answers 50[234]$|engine )/ && !defined $index->{reading} && time - $self->{began} < FIRST_SECONDS;
  my $most = $first ? FIRST_RETRY_SECONDS : AGAIN_SECONDS;
  $index->{due} = time + ($error && $wait > $most ? $most : $wait);
  if (!$error) { $index->{failures} = 0; utime undef, undef, "$self->{dir}/listed.map" }
  $index->{error} = $error;
  warn "index $index->{path}: $error\n" if $error && ($self->{said}{$index->{key}} // '') ne $error;
  $self->{said}{$index->{key}} = $error // '';
}

# What an index said before is not what the frontend says now: its objects are asked for with a validator from here on.
sub withdraw {
  my ($self, $index, $error) = @_;
  my $had = unlink @{$index->{lists}};
  @$index{qw(lists digest)} = ([], '');
  $self->{ahead}->forget($index->{key});
  $self->{dirty} = 1 if $had || !$self->{composed};
  $self->later($index, $error);
}

# Fetches one file into the folder of indexes; `then` gets its name and digest.
sub get {
  my ($self, $add, $index, $path, $size, $sha256, $then) = @_;
  my ($suffix) = $path =~ /(\.(?:gz|xz|zst|bz2))$/;
  my $file = "$self->{dir}/index/$index->{number}." . ++$self->{serial} . ($suffix // '');
  open(my $out, '>', $file) or return $self->later($index, "$file: $!");
  my $sha = Digest::SHA->new(256);
  $add->({
    listen => $self->{ports}{$index->{port}}, host => Http::host($self->{host}, $index->{port}), path => $path,
    sink => sub {
      my ($data, $request) = @_;
      return "the frontend answers $request->{status}" if $request->{status} != 200;
      return 'it is larger than ' . INDEX_BYTES_MAX . ' bytes' if $request->{bytes} > INDEX_BYTES_MAX;
      $sha->add($data);
      return print({$out} $data) ? undef : "$file: $!";
    },
    done => sub {
      my ($request) = @_;
      my $written = close $out;
      my $digest = $sha->hexdigest;
      my $error = $request->{error} // ($request->{status} != 200 ? "the frontend answers $request->{status}"
        : !$written ? "$file: $!" : defined $sha256 && $digest ne $sha256 ? "$path is not what its index says: $digest" : undef);
      return $then->($file, $digest) unless $error;
      unlink $file;
      # a frontend that cannot be reached has said nothing
      return $self->withdraw($index, $error) if $request->{status} =~ /^4/ || defined $sha256 && $digest ne $sha256 && !$request->{error};
      $self->later($index, $error);
    }
  });
}

sub read {
  my ($self, $add, $index, $file, $digest) = @_;
  if ($digest eq $index->{digest}) { unlink $file; return $self->later($index) }
  # what could not be read once is not read again and again
  if ($digest eq ($index->{unreadable} // '')) { unlink $file; return $self->later($index, $index->{error}) }
  # reached: what fails from here on makes all parts be asked for again, and is not asked for every other second
  $index->{failures} = 0 unless defined $index->{reading};
  $index->{reading} = $digest;
  if ($index->{kind} eq 'manifest') { return $self->parse('manifest', $file, sub { $self->have($index, $digest, [@_]) }, $index) }
  $self->parse($index->{kind} eq 'rpm' ? 'repomd' : 'release', $file, sub {
    my ($list) = @_;
    open(my $lines, '<', $list) or return $self->later($index, "$list: $!");
    my @parts = map { chomp; [split /\t/] } <$lines>;
    my ($folder) = $index->{path} =~ m{^(.*/)};
    $folder =~ s{[^/]*/$}{} if $index->{kind} eq 'rpm';
    # what it names with a digest are objects as well, by paths of their own
    if (open(my $own, '>', $list)) { print {$own} join("\t", "$folder$_->[0]", @$_[1, 2]), "\n" for @parts }
    my $wrong = !@parts ? 'it names no index of packages with a SHA-256' : @parts > PARTS_MAX ? 'it names more than ' . PARTS_MAX . ' indexes' : undef;
    if ($wrong) { unlink $list; return $self->withdraw($index, $wrong) }
    $self->part($add, $index, $digest, [$list], @parts);
  }, $index);
}

# Further indexes, one after the other.
sub part {
  my ($self, $add, $index, $digest, $lists, @parts) = @_;
  my $part = shift @parts or return $self->have($index, $digest, $lists);
  my ($folder) = $index->{path} =~ m{^(.*/)};
  # repomd.xml names things from the folder above its own
  $folder =~ s{[^/]*/$}{} if $index->{kind} eq 'rpm';
  $self->get($add, $index, "$folder$part->[0]", $part->[1], $part->[2], sub {
    $self->parse($index->{kind} eq 'rpm' ? 'primary' : 'packages', $_[0], sub { $self->part($add, $index, $digest, [@$lists, $_[0]], @parts) }, $index);
  });
}

# What paths of a list are relative to.
sub prefix {
  my ($index) = @_;
  return '' if $index->{kind} eq 'manifest';
  my ($folder) = $index->{path} =~ m{^(.*/)};
  if ($index->{kind} eq 'rpm') { $folder =~ s{[^/]*/$}{} } else { $folder =~ s{dists/.*$}{} }
  return $folder;
}

sub have {
  my ($self, $index, $digest, $lists) = @_;
  return unlink @$lists unless $self->{follow}{$index->{key}};
  unlink @{$index->{lists}};
  @$index{qw(lists digest)} = ($lists, $digest);
  $self->{dirty} = 1;
  $self->later($index);
  $index->{told} = 0;
  $self->{ahead}->manifest($index->{port}, $index->{key}, $lists) if $index->{kind} eq 'manifest';
}

# Whoever waits for a list is told when the engine has it.
sub tell {
  my ($self) = @_;
  return if $self->{dirty} || $self->{composing} || time < ($self->{known} // 0);
  $self->{lines} = $self->{found} // 0;
  for my $index (values %{$self->{follow}}) {
    next if !$index->{parsed} || $index->{told} || $index->{digest} eq '';
    $index->{told} = 1;
    $index->{parsed}->($index->{lists}, prefix($index));
  }
}

sub parse {
  my ($self, $kind, $file, $then, $index) = @_;
  my $list = "$self->{dir}/index/$index->{number}." . ++$self->{serial} . '.list';
  $self->child($list, [$self->{program}, $kind, $file], [$file], sub {
    my ($bad) = @_;
    unlink $file;
    return $then->($list) unless $bad;
    unlink $list;
    $index->{unreadable} = $index->{reading};
    $self->withdraw($index, "it cannot be read as $kind");
  });
}

sub compose {
  my ($self) = @_;
  @$self{qw(dirty composing composed)} = (0, 1, 1);
  my @lists = map { my $index = $_; map { ($index->{port}, prefix($index), $_) } @{$index->{lists}} } sort { $a->{number} <=> $b->{number} } values %{$self->{follow}};
  my $new = "$self->{dir}/listed.new";
  $self->child($new, [$self->{program}, 'listed', "$self->{dir}/denied", @lists], [map { @{$_->{lists}} } values %{$self->{follow}}], sub {
    my ($bad) = @_;
    $self->{composing} = 0;
    return warn "the list of digests cannot be made\n" if $bad;
    # the engine takes no other list now: as soon as one of its processes has ended it does
    if (!$self->{changed}->($new)) { @$self{qw(dirty after)} = (1, time + BUSY_SECONDS); return }
    $self->{known} = time + RELOAD_SECONDS;
  });
}

# A program of ours that reads FILES, with its output in OUT.
sub child {
  my ($self, $out, $argv, $files, $then) = @_;
  my $bytes = 0;
  # a few bytes may unpack to anything
  $bytes += /\.(?:gz|xz|zst|bz2)$/ ? SMALL_BYTES : -s $_ // 0 for @$files;
  my $pid = fork;
  return $then->(1) unless defined $pid;
  if (!$pid) {
    if (open(STDOUT, '>', $out)) {
      alarm 120;
      setpriority(0, 0, LATER) if $bytes >= SMALL_BYTES && getpriority(0, 0) < LATER;
      { exec 'prlimit', '--as=' . MEMORY_BYTES_MAX, '--', 'perl', @$argv }
    }
    kill 'KILL', $$; # not an end of its own: that would run what the parent has to run at its end
  }
  $self->{children}{$pid} = $then;
}

sub reap {
  my ($self) = @_;
  while ((my $pid = waitpid(-1, WNOHANG)) > 0) {
    my $bad = $?;
    my $then = delete $self->{children}{$pid};
    $then->($bad) if $then;
  }
}

1;
