import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { imageEnvironment, ImageTree, runscript, type AddedEntry } from '../../../src/image/entries.ts';
import type { ImageConfig } from '../../../src/record.ts';

const config: ImageConfig = {
  entrypoint: ['/app'],
  cmd: [],
  env: [],
  workdir: '',
  user: '',
  digest: 'sha256:0',
  platform: 'linux/amd64',
};
describe('what is added to an image', () => {
  const paths = (entries: readonly AddedEntry[]): string[] => entries.map(({ path }) => path);

  it('an empty image gets every mount point, parents first, each once', () => {
    const added = paths(new ImageTree(config).additions());
    for (const path of ['proc', 'sys', 'dev', 'tmp', 'var/tmp', 'etc/passwd', 'etc/group', 'etc/hosts', 'etc/resolv.conf'])
      assert.ok(added.includes(path), path);
    for (const name of ['input', 'output', 'scratch', 'tools', 'keys', 'encrypted', 'image.json'])
      assert.ok(added.includes(`sd-container/${name}`), name);
    assert.equal(new Set(added).size, added.length);
    for (const path of added) {
      const parent = path.split('/').slice(0, -1).join('/');
      assert.ok(parent === '' || added.indexOf(parent) < added.indexOf(path), path);
    }
  });

  it('what the image has is not added again', () => {
    const tree = new ImageTree({ ...config, workdir: '/srv/app/' });
    for (const path of ['proc', 'tmp', 'var', 'var/tmp', 'etc', 'srv', 'srv/app']) tree.keep(path, 'directory');
    tree.keep('etc/passwd', 'file');
    const added = paths(tree.additions());
    for (const path of ['proc', 'tmp', 'var', 'var/tmp', 'etc', 'etc/passwd', 'srv', 'srv/app'])
      assert.ok(!added.includes(path), path);
    assert.ok(added.includes('etc/group'));
  });

  it('nothing is added behind a link, whose target cannot be known', () => {
    const tree = new ImageTree({ ...config, workdir: '/data/work' });
    tree.keep('etc', 'symlink');
    tree.keep('data', 'symlink');
    tree.keep('tmp', 'symlink');
    const added = paths(tree.additions());
    assert.ok(!added.some((path) => path.startsWith('etc') || path.startsWith('data') || path === 'tmp'));
    assert.ok(added.includes('var/tmp'));
  });

  it('a working directory that is missing is made, as Docker does', () => {
    assert.ok(
      paths(new ImageTree({ ...config, workdir: '/a/b/c' }).additions())
        .join(' ')
        .includes('a a/b a/b/c'),
    );
  });

  it('a working directory cannot lead out', () => {
    const added = paths(new ImageTree({ ...config, workdir: '/a/../../etc' }).additions());
    assert.ok(!added.some((path) => path.includes('..')));
  });

  it('leaves out devices and what lies where ours goes', () => {
    const tree = new ImageTree(config);
    assert.equal(tree.keep('dev/null', 'character'), false);
    assert.equal(tree.keep('dev/sda', 'block'), false);
    assert.equal(tree.keep('etc/resolv.conf', 'file'), true);
    assert.equal(tree.keep('sd-container', 'symlink'), false);
    assert.equal(tree.keep('.singularity.d', 'directory'), false);
    assert.equal(tree.keep('.singularity.d/runscript', 'file'), false);
    assert.equal(tree.keep('sd-container2', 'file'), true);
    assert.deepEqual([...tree.replaced], ['/sd-container', '/.singularity.d']);
  });
});

describe('the run script', () => {
  const run = (image: Partial<ImageConfig>, args: readonly string[]): string =>
    execFileSync('/bin/sh', ['-s', '--', ...args], {
      input: runscript({ ...config, ...image }),
      encoding: 'utf8',
      stdio: ['pipe', 'pipe', 'ignore'],
    });
  const odd = ['', 'a b', "it's", '$HOME `x` "q"', 'new\nline', '-n', '*'];
  const show = ['/usr/bin/printf', '[%s]'];

  it('entrypoint only: arguments follow', () => {
    assert.equal(run({ entrypoint: show }, []), '[]');
    assert.equal(run({ entrypoint: show }, odd), odd.map((word) => `[${word}]`).join(''));
  });
  it('command only: arguments replace it', () => {
    assert.equal(run({ entrypoint: [], cmd: [...show, 'x'] }, []), '[x]');
    assert.equal(run({ entrypoint: [], cmd: ['/bin/false'] }, [...show, ...odd]), odd.map((word) => `[${word}]`).join(''));
  });
  it('both: arguments replace the command', () => {
    assert.equal(run({ entrypoint: show, cmd: odd }, []), odd.map((word) => `[${word}]`).join(''));
    assert.equal(run({ entrypoint: show, cmd: odd }, ['y']), '[y]');
  });
  it('starts in the directory of the image', () => {
    assert.equal(run({ entrypoint: ['/bin/pwd'], workdir: '/usr' }, []), '/usr\n');
    assert.throws(() => run({ entrypoint: ['/bin/pwd'], workdir: '/not here' }, []), { status: 125 });
  });
});

describe("the image's environment", () => {
  it('is set letter by letter, last value first', () => {
    const script = imageEnvironment(['A=1', 'B=q"$x`\'\n;', 'C=', 'A=2', 'not.a.name=3', 'NOVALUE', 'D=a=b']);
    const shown = execFileSync('/bin/sh', ['-c', `${script}\nprintf '%s|' "$A" "$B" "\${C-unset}" "$D"`], {
      encoding: 'utf8',
      env: {},
    });
    assert.equal(shown, '2|q"$x`\'\n;||a=b|');
  });
});
