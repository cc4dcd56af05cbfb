import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { writePrograms } from '../support/programs.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));

/** Commands of those who run a server or a sandbox, or make what the images bring. */
const notForStages = ['sandbox', 'server', 'tool-kit'];

describe('the entry point of the stage images', () => {
  let directory: string;
  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'hpcs-stage-'));
    await writePrograms(directory, { node: 'printf "%s\\n" "$*"', id: 'echo 1000' });
  });
  after(() => rm(directory, { recursive: true }));

  /** What it would run, as it says itself. */
  const runs = (...words: string[]): string => started(directory, words);
  const started = (programs: string, words: readonly string[], env: Record<string, string> = {}): string =>
    execFileSync(join(root, 'docker/stage.sh'), words, {
      env: { ...env, PATH: `${programs}:${process.env['PATH']}` },
      encoding: 'utf8',
    }).trimEnd();

  it('runs its stage with what it is given', () => {
    assert.equal(runs('data-prep', '-i', 'enrol'), '/app/bin/dev.js data-prep -i enrol');
    assert.equal(runs('data-prep'), '/app/bin/dev.js data-prep');
  });

  it('runs every other command of a client', async () => {
    const all = new Set((await readdir(join(root, 'commands'))).map((name) => name.replace(/\.ts$/, '')));
    for (const command of [...all, 'help'].filter((name) => !notForStages.includes(name)))
      assert.equal(runs('data-prep', command, 'x'), `/app/bin/dev.js ${command} x`);
  });

  describe('started as root', () => {
    let programs: string;
    let socket: string;
    let engine: Server;
    before(async () => {
      programs = await mkdtemp(join(tmpdir(), 'hpcs-stage-root-'));
      socket = join(programs, 'engine.sock');
      engine = createServer().listen(socket);
      await once(engine, 'listening');
      await writePrograms(programs, {
        id: 'echo 0',
        stat: 'case $2,$3 in %g,*.sock) echo 77 ;; *) echo 1000 ;; esac',
        getent: ':',
        // The account that it stands for may look into no home but this one.
        setpriv: 'case "$4,$5,$6" in test,-x,/home) ;; test,*) exit 1 ;; *) echo "$HOME $*" ;; esac',
      });
    });
    after(async () => {
      engine.close();
      await rm(programs, { recursive: true });
    });

    const owner = '--reuid=1000 --regid=1000';

    it('becomes the owner of the work directory, with a home that he may look into', () => {
      const runs = (home: string): string => started(programs, ['data-prep'], { HOME: home });
      const end = `${owner} --clear-groups node /app/bin/dev.js data-prep`;
      assert.equal(runs('/home'), `/home ${end}`);
      assert.equal(runs('/'), `/tmp ${end}`);
      assert.equal(runs('/nowhere'), `/nowhere ${end}`);
    });

    it('may speak to the engine, wherever its socket is said to be', () => {
      const groups = (words: readonly string[], env: Record<string, string> = {}): string | undefined =>
        /--\S*groups\S*/.exec(started(programs, words, { HOME: '/home', ...env }))?.[0];
      const at = `unix://${socket}`;
      for (const words of [['-d', socket], ['-d', at], [`-d${socket}`], ['--docker-path', at], [`--docker-path=${socket}`]])
        assert.equal(groups(['container-prep', '-b', 'x', ...words]), '--groups=77', words.join(' '));
      assert.equal(groups(['container-prep'], { DOCKER_HOST: at }), '--groups=77');
      assert.equal(groups(['container-prep', '-d', '/nowhere'], { DOCKER_HOST: at }), '--clear-groups');
      assert.equal(groups(['data-prep', '-d', socket]), '--clear-groups');
    });
  });
});
