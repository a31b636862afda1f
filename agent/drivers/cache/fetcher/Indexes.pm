package Indexes;
# Indexes on the frontend that name objects with their SHA-256. They are asked for again and again; what they
# say becomes the engine's map of paths to digests. Reading one is left to a process of its own.
use strict;
use warnings;
use Digest::SHA;
use Time::HiRes ();

use constant WNOHANG => 1; # of wait(2); all of POSIX would be 2 MB of memory
use constant AGAIN_SECONDS => 60;
use constant RETRY_SECONDS => 5;
use constant RELOAD_SECONDS => 1; # until workers with the old list take no requests any more
use constant INDEX_BYTES_MAX => 268_435_456;
use constant PARTS_MAX => 64; # indexes that one index names

sub new {
  my ($class, %given) = @_; # dir, ports, host, program, ahead, changed => called with the listing file when it is another
  mkdir "$given{dir}/index", 0700;
  return bless { %given, follow => {}, children => {}, said => {}, dirty => 0, lines => 0 }, $class;
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
    next if $index->{busy} || Time::HiRes::time() < $index->{due};
    $index->{busy} = 1;
    $self->get($add, $index, $index->{path}, undef, undef, sub { $self->read($add, $index, @_) });
  }
  $self->compose if $self->{dirty} && !$self->{composing};
  $self->tell;
}

sub later {
  my ($self, $index, $error) = @_;
  $index->{busy} = 0;
  $index->{due} = Time::HiRes::time() + ($error ? RETRY_SECONDS : AGAIN_SECONDS);
  $index->{error} = $error;
  warn "index $index->{path}: $error\n" if $error && ($self->{said}{$index->{key}} // '') ne $error;
  $self->{said}{$index->{key}} = $error // '';
}

# Fetches one file into the folder of indexes; `then` gets its name and digest.
sub get {
  my ($self, $add, $index, $path, $size, $sha256, $then) = @_;
  my ($suffix) = $path =~ /(\.(?:gz|xz|zst|bz2))$/;
  my $file = "$self->{dir}/index/$index->{number}." . ++$self->{serial} . ($suffix // '');
  open(my $out, '>', $file) or return $self->later($index, "$file: $!");
  my $sha = Digest::SHA->new(256);
  $add->({
    listen => $self->{ports}{$index->{port}}, host => $self->{host}, path => $path,
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
      $self->later($index, $error);
    }
  });
}

sub read {
  my ($self, $add, $index, $file, $digest) = @_;
  if ($digest eq $index->{digest}) { unlink $file; return $self->later($index) }
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
    if ($wrong) { unlink $list; return $self->later($index, $wrong) }
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
  return if $self->{dirty} || $self->{composing} || Time::HiRes::time() < ($self->{known} // 0);
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
  $self->child($list, [$self->{program}, $kind, $file], sub {
    my ($bad) = @_;
    unlink $file;
    return $then->($list) unless $bad;
    unlink $list;
    $self->later($index, "it cannot be read as $kind");
  });
}

sub compose {
  my ($self) = @_;
  @$self{qw(dirty composing)} = (0, 1);
  my @lists = map { my $index = $_; map { ($index->{port}, prefix($index), $_) } @{$index->{lists}} } sort { $a->{number} <=> $b->{number} } values %{$self->{follow}};
  my $new = "$self->{dir}/listed.new";
  $self->child($new, [$self->{program}, 'listed', "$self->{dir}/denied", @lists], sub {
    my ($bad) = @_;
    $self->{composing} = 0;
    return warn "the list of digests cannot be made\n" if $bad;
    $self->{changed}->($new);
    $self->{known} = Time::HiRes::time() + RELOAD_SECONDS;
  });
}

sub child {
  my ($self, $out, $argv, $then) = @_;
  my $pid = fork;
  return $then->(1) unless defined $pid;
  if (!$pid) {
    if (open(STDOUT, '>', $out)) {
      alarm 120;
      { exec 'perl', @$argv }
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
