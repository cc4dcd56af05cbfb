import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmod, mkdir, mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { jobPlanSchema } from '../../../src/job/plan.ts';
import { checkRequest, logPath, resultDirectory } from '../../../src/job/script.ts';
import { assertGolden, goldenPath } from '../../support/golden.ts';
import { hostileArguments, render, scriptCases } from '../../support/script-cases.ts';

const { plain, everything, hostile } = scriptCases;

/** Whether a process has started its `cp`. */
async function isCopying(pid: number): Promise<boolean> {
  const children = await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8');
  const names = await Promise.all(
    children
      .trim()
      .split(' ')
      .filter(Boolean)
      .map((child) => readFile(`/proc/${child}/comm`, 'utf8').catch(() => '')),
  );
  return names.includes('cp\n');
}

describe('batch script', () => {
  for (const [name, job] of Object.entries(scriptCases)) {
    it(`is the golden one: ${name}`, () => assertGolden(`script/${name}.sh`, render(job)));

    it(`is shell that bash can parse: ${name}`, () => {
      const { status, stderr } = spawnSync('bash', ['-n', goldenPath(`script/${name}.sh`)], { encoding: 'utf8' });
      assert.deepEqual([status, stderr], [0, '']);
    });

    it(`has the same fixed body as any other: ${name}`, () => {
      const body = (script: string) => script.slice(script.indexOf('\nset -euo'), script.indexOf("<<'HPCS_PLAN'"));
      assert.equal(body(render(job)), body(render(plain)));
    });

    it(`holds a plan that hpcs-node reads: ${name}`, () => {
      const lines = render(job).split('\n');
      const plan: unknown = JSON.parse(
        lines.slice(lines.findIndex((line) => line.includes("<<'HPCS_PLAN'")) + 1, lines.indexOf('HPCS_PLAN')).join('\n'),
      );
      // Lone surrogates are no Unicode, but survive in JSON.
      assert.deepEqual(jobPlanSchema.parse(plan), JSON.parse(JSON.stringify(job.plan)));
    });
  }

  it('is in one piece: no value of the plan begins a line, holds a carriage return or a NUL', () => {
    const script = render(hostile);
    assert.ok(!/[\r\0]/.test(script));
    assert.deepEqual(script.match(/^HPCS_PLAN$/gm), ['HPCS_PLAN']);
    assert.ok(!/^#SBATCH --uid/m.test(script));
  });

  it('has all its directives before the first command, which is where Slurm stops reading them', () => {
    const lines = render(everything).split('\n');
    const first = lines.findIndex((line) => line !== '' && !line.startsWith('#'));
    assert.match(lines[first] ?? '', /^tool_kit=/);
    assert.ok(!lines.slice(first).some((line) => line.startsWith('#SBATCH')));
  });

  it('asks the job to end a minute before its limit, and before a short limit not before it began', () => {
    for (const [time, grace] of [
      ['00:00:30', 15],
      ['1', 15],
      ['00:01:01', 30],
      ['2:00', 30],
      ['3:30', 60],
      ['01:00:00', 60],
      ['2-0', 60],
      ['UNLIMITED', 60],
    ] as const)
      assert.match(render(plain, { request: { time } }), new RegExp(`^#SBATCH --signal=B:TERM@${grace}$`, 'm'), time);
  });

  it('says where its log goes, as logPath does', () => {
    const script = render(plain, { request: { workdir: '/scratch/a//' } });
    const pattern = /^#SBATCH --output=(.*)$/m.exec(script)?.[1] ?? '';
    assert.equal(pattern.replace('%x', 'hpcs').replace('%j', '77'), logPath('/scratch/a', 'hpcs', '77'));
    assert.equal(pattern.split('%').length, 3);
  });

  it('gives each job and each run of a job results of its own', () => {
    const directories = [
      resultDirectory('/w', 'a', '1', 0),
      resultDirectory('/w', 'a', '1', 1),
      resultDirectory('/w', 'a', '2', 0),
      resultDirectory('/w', 'b', '1', 0),
    ];
    assert.equal(new Set(directories).size, 4);
  });

  describe('refuses what a directive cannot carry', () => {
    const bad = [
      '',
      ' ',
      'a b',
      'a\nb',
      'a\r',
      'a;b',
      '$x',
      '`x`',
      'a#b',
      '"a"',
      "'a'",
      '-a',
      'a\\b',
      'a%b',
      'é',
      '\x1B',
      'a\n#SBATCH --uid=0',
    ];
    for (const key of ['jobName', 'partition', 'time', 'account', 'nodelist'] as const) {
      it(key, () => {
        for (const value of bad)
          assert.throws(
            () => render(plain, { request: { [key]: value } }),
            { code: 'bad-value', exitCode: 2 },
            JSON.stringify(value),
          );
      });
    }

    it('jobName, which is part of file names', () => {
      for (const value of ['..', '.hidden', 'a/b', '../../x', 'a:b', 'a,b', 'x'.repeat(101)]) {
        assert.throws(() => render(plain, { request: { jobName: value } }), { code: 'bad-value' }, value);
      }
    });

    it('paths', () => {
      for (const value of ['relative', '~/x', '/a b', '/a\nb', '/a"b', "/a'b", '/a\\b', '/a%jb', '/a#b', '/a\0', '/a\x1B', '']) {
        for (const changes of [{ request: { workdir: value } }, { toolKit: { path: value } }, { plan: { scratch: value } }]) {
          assert.throws(() => render(plain, changes), { code: 'bad-value', exitCode: 2 }, JSON.stringify(changes));
        }
      }
    });

    it('before anything is made for the job', () => {
      checkRequest(everything.request);
      assert.throws(() => checkRequest({ ...plain.request, partition: 'a b' }), { code: 'bad-value', exitCode: 2 });
      assert.throws(() => checkRequest({ ...plain.request, nodes: Number('1-2') }), { code: 'bad-value', exitCode: 2 });
    });

    it('numbers of nodes', () => {
      for (const nodes of [0, -1, 1.5, Number.NaN, Infinity])
        assert.throws(() => render(plain, { request: { nodes } }), { code: 'bad-value' }, String(nodes));
    });
  });

  describe('run by bash', () => {
    let directory: string;
    let scratch: string;

    /** A tool kit whose runtime is a shell script. */
    async function toolKit(
      runtime: string,
      path = join(directory, 'tool-kit.tar.gz'),
    ): Promise<{ path: string; sha256: string }> {
      const content = join(directory, 'kit');
      await mkdir(join(content, 'bin'), { recursive: true });
      await writeFile(join(content, 'bin/node'), `#!/bin/bash\n${runtime}\n`);
      await chmod(join(content, 'bin/node'), 0o755);
      await writeFile(join(content, 'hpcs-node.mjs'), '');
      assert.equal(spawnSync('tar', ['-C', content, '-czf', path, '.']).status, 0);
      return {
        path,
        sha256: createHash('sha256')
          .update(await readFile(path))
          .digest('hex'),
      };
    }

    async function submit(script: string, env: Record<string, string> = {}) {
      await writeFile(join(directory, 'slurm_script'), script, { mode: 0o700 });
      const child = spawn(join(directory, 'slurm_script'), {
        cwd: join(directory, 'cwd'),
        env: { PATH: '/usr/bin:/bin', SLURM_JOB_ID: '77', SLURMD_NODENAME: 'c1', ...env },
      });
      child.stdin.end();
      const [stdout, stderr, code] = await Promise.all([
        text(child.stdout),
        text(child.stderr),
        new Promise<number | null>((resolve) => child.once('close', resolve)),
      ]);
      assert.deepEqual(await readdir(join(directory, 'cwd')), [], 'something wrote into the working directory');
      return { code, stdout, stderr };
    }

    beforeEach(async () => {
      directory = await mkdtemp(join(tmpdir(), 'hpcs-script-'));
      scratch = join(directory, 'scratch');
      await mkdir(join(directory, 'cwd'));
      await mkdir(scratch);
    });
    afterEach(() => rm(directory, { recursive: true }));

    it('hands the plan over, hostile values and all, and executes none of them', async () => {
      const place = join(directory, '$(touch${IFS}pwned);touch${IFS}pwned;`touch${IFS}pwned`&*');
      await mkdir(place);
      const kit = await toolKit('printf "%s\\n" "${@:1}"; cat', join(place, 'tool-kit.tar.gz'));
      await mkdir(join(scratch, '$(touch${IFS}pwned)'));
      const { code, stdout, stderr } = await submit(
        render(hostile, { toolKit: kit, plan: { scratch: join(scratch, '$(touch${IFS}pwned)') } }),
      );
      assert.deepEqual([code, stderr], [0, '']);
      const [program, step, ...json] = stdout.split('\n');
      assert.match(program ?? '', /\/hpcs\.\d+\.77\.\w{6}\/hpcs-node\.mjs$/);
      assert.equal(step, 'run');
      const plan = jobPlanSchema.parse(JSON.parse(json.join('\n')));
      assert.deepEqual(plan.arguments, hostileArguments);
    });

    it('leaves nothing of the login environment but what the job needs', async () => {
      const kit = await toolKit('env; type cp');
      const script = render(plain, { toolKit: kit, plan: { scratch } });
      const { stdout, code } = await submit(script, {
        HOME: '/home/alice',
        NODE_OPTIONS: '--require /tmp/x.js',
        NODE_TLS_REJECT_UNAUTHORIZED: '0',
        NODE_EXTRA_CA_CERTS: '/tmp/ca.pem',
        SSL_CERT_FILE: '/tmp/ca.pem',
        OPENSSL_CONF: '/tmp/openssl.cnf',
        APPTAINER_BIND: '/:/host',
        SINGULARITY_BIND: '/:/host',
        TAR_OPTIONS: '--exclude=bin',
        SLURM_JOB_ACCOUNT: 'project_1',
        SLURM_RESTART_COUNT: '1',
        https_proxy: 'http://proxy:3128',
        'BASH_FUNC_cp%%': '() { echo replaced; }',
        LC_ALL: 'C',
      });
      assert.equal(code, 0);
      const lines = stdout.split('\n');
      const names = lines.flatMap((line) => /^(\w+)=/.exec(line)?.[1] ?? []);
      const ofBash = new Set(['PWD', 'SHLVL', '_', 'OLDPWD']);
      assert.deepEqual(names.filter((name) => !ofBash.has(name)).toSorted(), [
        'HPCS_PRIVATE',
        'LC_ALL',
        'PATH',
        'SLURMD_NODENAME',
        'SLURM_JOB_ID',
        'SLURM_RESTART_COUNT',
        'https_proxy',
      ]);
      assert.ok(lines.includes('LC_ALL=C.UTF-8') && lines.includes('PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin'));
      assert.match(stdout, /^cp is \/(usr\/)?bin\/cp$/m);
    });

    it('runs the copy in a private directory', async () => {
      const kit = await toolKit('cd "$HPCS_PRIVATE"; stat -c %a .; ls -A; umask; ulimit -c');
      const { stdout } = await submit(render(plain, { toolKit: kit, plan: { scratch } }));
      assert.deepEqual(stdout.trim().split('\n'), ['700', 'bin', 'hpcs-node.mjs', 'pid', '0077', '0']);
    });

    it('ends with the exit code of the program', async () => {
      const kit = await toolKit('exit 137');
      assert.equal((await submit(render(plain, { toolKit: kit, plan: { scratch } }))).code, 137);
    });

    it('becomes the program, so that signals reach it', async () => {
      const kit = await toolKit('echo "$PPID $$"');
      const { stdout } = await submit(render(plain, { toolKit: kit, plan: { scratch } }));
      assert.equal(stdout.split(' ')[0], String(process.pid));
    });

    it('ends with 7 before anything of an altered tool kit runs, and leaves nothing behind', async () => {
      const { sha256 } = await toolKit('echo good');
      const { path } = await toolKit('echo bad; touch ran');
      const { code, stdout, stderr } = await submit(render(plain, { toolKit: { path, sha256 }, plan: { scratch } }));
      assert.deepEqual([code, stdout], [7, '']);
      assert.equal(stderr, `hpcs: error: tool-kit-altered: the tool kit ${path} is not the one this job was submitted with\n`);
      assert.deepEqual(await readdir(scratch), []);
    });

    it('ends with 7 for a tool kit with a byte more', async () => {
      const kit = await toolKit('echo good');
      await writeFile(kit.path, '\0', { flag: 'a' });
      assert.equal((await submit(render(plain, { toolKit: kit, plan: { scratch } }))).code, 7);
    });

    it('ends with 5 and a reason where the site lacks what it needs, and leaves nothing behind', async () => {
      const kit = await toolKit('echo good');
      const missing = await submit(render(plain, { toolKit: { ...kit, path: '/nonexistent/kit' }, plan: { scratch } }));
      assert.equal(missing.code, 5);
      assert.match(
        missing.stderr,
        /^hpcs: error: tool-kit-unreadable: cannot copy the tool kit \/nonexistent\/kit to this node$/m,
      );
      const nowhere = await submit(render(plain, { toolKit: kit, plan: { scratch: '/nonexistent' } }));
      assert.equal(nowhere.code, 5);
      assert.match(nowhere.stderr, /^hpcs: error: node-directory-unwritable: cannot write to \/nonexistent on this node$/m);
      await writeFile(kit.path, 'not an archive');
      const broken = await submit(
        render(plain, {
          toolKit: { path: kit.path, sha256: createHash('sha256').update('not an archive').digest('hex') },
          plan: { scratch },
        }),
      );
      assert.equal(broken.code, 5);
      assert.match(broken.stderr, /^hpcs: error: tool-kit-unpacking: /m);
      await chmod(join(directory, 'kit/bin/node'), 0o644);
      spawnSync('tar', ['-C', join(directory, 'kit'), '-czf', kit.path, '.']);
      const noexec = await submit(
        render(plain, {
          toolKit: {
            path: kit.path,
            sha256: createHash('sha256')
              .update(await readFile(kit.path))
              .digest('hex'),
          },
          plan: { scratch },
        }),
      );
      assert.equal(noexec.code, 5);
      assert.match(noexec.stderr, /^hpcs: error: node-directory-noexec: programs cannot be run from .*\/scratch on this node$/m);
      assert.deepEqual(await readdir(scratch), []);
    });

    it('removes its private directory when it is ended while it copies', async () => {
      const kit = join(directory, 'pipe');
      assert.equal(spawnSync('mkfifo', [kit]).status, 0);
      const child = spawn('bash', ['-s'], {
        cwd: directory,
        env: { SLURM_JOB_ID: '77' },
        stdio: ['pipe', 'ignore', 'ignore'],
        detached: true,
      });
      const closed = new Promise((resolve) => child.once('close', resolve));
      child.stdin?.end(render(plain, { toolKit: { path: kit }, plan: { scratch } }));
      while (!(await isCopying(child.pid as number))) await new Promise((resolve) => setTimeout(resolve, 10));
      // Slurm signals every process of the job's steps, here: of the group.
      process.kill(-(child.pid as number), 'SIGTERM');
      await closed;
      assert.deepEqual(await readdir(scratch), []);
    });
  });
});
