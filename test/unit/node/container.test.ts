import assert from 'node:assert/strict';
import {
  applicationCommand,
  containerArguments,
  containerEnvironment,
  looseningFlags,
  type ContainerRun,
} from '../../../src/node/container.ts';

const run: ContainerRun = {
  apptainer: 'apptainer',
  sif: '/private/mnt/app.sif',
  command: ['/app', '--width=100', '-f', 'a b'],
  image: { env: [], workdir: '' },
  home: { source: '/private/mnt/home', target: '/sd-container/home' },
  binds: [
    { source: '/private/mnt/encrypted', target: '/sd-container/encrypted' },
    { source: '/private/mnt/scripts', target: '/sd-container/tools/input_logic/jobs', readOnly: true },
  ],
  flags: ['--env', 'TERM=xterm'],
  temporary: '/private/mnt/apptainer',
};

describe('container', () => {
  it('is contained, bound to what is planned and to nothing else', () => {
    const args = containerArguments(run);
    const before = args.slice(0, args.indexOf('--env'));
    for (const flag of ['exec', '--containall', '--cleanenv', '--no-eval']) assert.ok(before.includes(flag), flag);
    const binds = args.flatMap((word, index) => (word === '--bind' ? [args[index + 1]] : []));
    assert.deepEqual(binds, [
      '/private/mnt/encrypted:/sd-container/encrypted',
      '/private/mnt/scripts:/sd-container/tools/input_logic/jobs:ro',
    ]);
    assert.equal(args[args.indexOf('--home') + 1], '/private/mnt/home:/sd-container/home');
  });

  it("gets the user's flags before the image, and the command behind it, word by word", () => {
    const args = containerArguments(run);
    assert.deepEqual(args.slice(args.indexOf('--env')), [
      '--env',
      'TERM=xterm',
      '/private/mnt/app.sif',
      '/app',
      '--width=100',
      '-f',
      'a b',
    ]);
  });

  it("runs the image's own entry point where that is asked for", () => {
    const args = containerArguments({ ...run, entryPoint: true });
    assert.deepEqual(args.slice(0, 2), ['--quiet', 'run']);
    assert.deepEqual(args.slice(2), containerArguments(run).slice(2));
  });

  for (const [workdir, pwd] of [
    ['/data', '/data'],
    ['', '/sd-container/scratch'],
    ['/', '/sd-container/scratch'],
  ] as const) {
    it(`starts in ${pwd} where the image says ${JSON.stringify(workdir)}`, () => {
      const args = containerArguments({ ...run, image: { env: [], workdir } });
      assert.equal(args[args.indexOf('--pwd') + 1], pwd);
    });
  }

  it("has the image's environment and none of the node's", () => {
    const image = { workdir: '', env: ['PATH=/app/bin', 'A=b=c', 'EMPTY=', 'LINES=a\nb', 'HOME=/root', 'nonsense', '=x'] };
    assert.deepEqual(containerEnvironment({ ...run, image }, '/usr/bin'), {
      PATH: '/usr/bin',
      LC_ALL: 'C.UTF-8',
      HOME: '/private/mnt/apptainer',
      TMPDIR: '/private/mnt/apptainer',
      APPTAINER_TMPDIR: '/private/mnt/apptainer',
      APPTAINER_CACHEDIR: '/private/mnt/apptainer',
      APPTAINERENV_PATH: '/app/bin',
      APPTAINERENV_A: 'b=c',
      APPTAINERENV_EMPTY: '',
      APPTAINERENV_LINES: 'a\nb',
    });
  });

  for (const [entrypoint, cmd, args, command] of [
    [['/e'], ['c'], [], ['/e', 'c']],
    [['/e'], ['c'], ['a', ''], ['/e', 'a', '']],
    [['/e'], [], [], ['/e']],
    [[], ['/c', 'd'], [], ['/c', 'd']],
    [[], ['/c', 'd'], ['/a'], ['/a']],
    [['sh', '-c', 'x $@'], [], ['$(id)'], ['sh', '-c', 'x $@', '$(id)']],
    [[], [], [], []],
  ] as const) {
    it(`of entrypoint ${JSON.stringify(entrypoint)} and cmd ${JSON.stringify(cmd)} runs ${JSON.stringify(command)} with ${JSON.stringify(args)}`, () => {
      assert.deepEqual(applicationCommand({ entrypoint: [...entrypoint], cmd: [...cmd] }, args), command);
    });
  }

  describe('flags that loosen containment', () => {
    const loosening = ['-B', '-B/x', '--bind', '--bind=/x', '--mount=type=bind', '-H/x', '--home=/x', '-W', '--workdir=/x', '-w', '--writable', '--writable-tmpfs', '-f', '--fakeroot', '-eB/x', '--add-caps=all', '--allow-setuid', '--keep-privs', '-o', '--overlay=x', '--fusemount=host:x', '--security=uid:0', '--net', '--network=host', '--containall=false', '--cleanenv=0', '-C=false', '-e=f', '--no-eval=F', '--sharens']; // prettier-ignore
    const fine = ['--env', 'TERM=xterm-256color', '--nv', '--rocm', '--hostname=h', '-S/tmp/Bfw', '--containall', '-e', '-C', '--cleanenv', '--debug', 'bind', '/B', '--netsomething', '-p']; // prettier-ignore

    it('are found in each spelling', () => assert.deepEqual(looseningFlags([...fine, ...loosening]), loosening));
  });
});
