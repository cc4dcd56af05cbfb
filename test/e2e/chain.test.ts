import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { chmod, mkdir, readdir, readFile, readlink, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { jobArguments, openJob, prepareData, prepareImage, probe, resultText, runJob, type Prepared } from '../support/jobs.ts';
import { Site } from '../support/site.ts';

describe('the chain on real parts', function () {
  this.timeout(300_000);
  let site: Site;
  let image: Prepared;
  let data: Prepared;
  let input: string;

  before(async () => {
    site = await Site.open();
    await site.image('hpcs-test/probe', {
      Dockerfile: 'FROM debian:bookworm-slim\nCOPY probe /probe\nENTRYPOINT ["/probe"]\nCMD ["default"]\n',
      probe,
    });
    image = await prepareImage(site, 'hpcs-test/probe');
    input = join(site.temporary, 'input');
    await mkdir(input);
    await writeFile(join(input, 'hello.txt'), 'hello\n');
    data = await prepareData(site, input);
  });

  after(async () => {
    await site[Symbol.asyncDispose]();
  });

  describe('applications', () => {
    it('get their arguments to the byte', async () => {
      const args = ['two words', `"double" 'single'`, '$HOME `id`', 'a;b|c&d>e', 'line\nbreak', 'ünï ☃', '', '--json', '-f', '*'];
      const job = await runJob(site, image, data, ['--', 'args', ...args]);
      assert.equal(job.code, 0, job.stderr);
      const found = await resultText(await openJob(site, job.jobId), 'args');
      assert.deepEqual(found.split('\0').slice(0, -1), args);
    });

    it('get the same arguments from one string in quotes', async () => {
      const job = await runJob(site, image, data, ['-args', `"\\" args 'two words' \\"x\\" \\$y \\""`]);
      assert.equal(job.code, 0, job.stderr);
      assert.deepEqual((await resultText(await openJob(site, job.jobId), 'args')).split('\0').slice(0, -1), [
        'two words',
        '"x"',
        '$y',
      ]);
    });

    for (const code of [0, 3, 137]) {
      it(`keep their exit code ${code}`, async () => {
        const job = await runJob(site, image, data, ['--', 'exit', String(code)]);
        assert.equal(job.code, code, job.stderr);
        assert.equal(await resultText(await openJob(site, job.jobId), 'exit_code'), `${code}\n`);
      });
    }

    it('cost neither their results nor a file of the site with what they leave behind', async () => {
      const victim = `${site.scratch}/victim`;
      await site.run(`echo whole > ${victim}`);
      const job = await runJob(site, image, data, ['--', 'odd', victim]);
      assert.equal(job.code, 5, job.stderr);
      assert.equal((await site.run(`cat ${victim}`)).stdout, 'whole\n');
      const results = await openJob(site, job.jobId);
      assert.equal(await resultText(results, 'exit_code'), 'mine\n');
      const beside = async (name: string): Promise<string[]> => {
        const names = (await readdir(results)).filter((found) => new RegExp(`^${name}\\.hpcs\\.[0-9a-f]{16}$`).test(found));
        return Promise.all(names.map((found) => resultText(results, found)));
      };
      assert.deepEqual(await beside('exit_code'), ['5\n']);
      assert.deepEqual(await beside('left_out'), ['"odd\\udcff/pipe"\n']);
    });

    it('whose results cannot be sealed leave no name of them in the log', async () => {
      const job = await runJob(site, image, data, ['--', 'deep']);
      assert.equal(job.code, 5, job.stderr);
      const { stdout } = await site.hpcsOk(['job', 'logs', job.jobId]);
      assert.match(stdout, /looking through the results failed: ENAMETOOLONG\n/);
      assert.doesNotMatch(stdout, /4711| {4}at /);
    });

    it('leave nothing readable outside the encrypted volumes', async () => {
      const canary = `canary-${Date.now()}-${Math.random()}`;
      const job = await runJob(site, image, data, ['--', 'leak', canary]);
      assert.equal(job.code, 0, job.stderr);
      const written = (await resultText(await openJob(site, job.jobId), 'written')).trim().split('\n');
      assert.ok(written.length >= 4, `wrote only to ${written.join(' ')}`);
      const search = await site.run(
        `grep -rlF --exclude-dir=proc --exclude-dir=sys --exclude-dir=dev -e ${canary} / 2>/dev/null; true`,
        'root',
      );
      // The arguments stand in the batch script, which Slurm keeps for its owner.
      const leaks = search.stdout
        .split('\n')
        .filter((file) => file !== '' && !/slurm.*\/(script|hash\.\d+\/job\.\d+\/script)$/.test(file));
      assert.deepEqual(leaks, []);
    });
  });

  describe('images', () => {
    const kinds: [name: string, dockerfile: string, args: string[], expected: RegExp][] = [
      ['entrypoint only', 'FROM debian:bookworm-slim\nENTRYPOINT ["/bin/echo", "entry"]\n', ['more'], /^entry more\n$/],
      ['cmd only', 'FROM debian:bookworm-slim\nCMD ["/bin/echo", "from cmd"]\n', [], /^from cmd\n$/],
      [
        'entrypoint and cmd',
        'FROM debian:bookworm-slim\nENTRYPOINT ["/bin/echo", "entry"]\nCMD ["from cmd"]\n',
        [],
        /^entry from cmd\n$/,
      ],
      ['env and workdir', 'FROM debian:bookworm-slim\nENV GREETING="hello, a=b $x"\nWORKDIR /opt/place\nENTRYPOINT ["/bin/sh", "-c", "echo $GREETING; pwd"]\n', [], /^hello, a=b ?\n\/opt\/place\n$/], // prettier-ignore
      [
        'a user of its own',
        'FROM debian:bookworm-slim\nRUN useradd -u 1234 app\nUSER app\nENTRYPOINT ["/bin/echo", "as app"]\n',
        [],
        /^as app\n$/,
      ],
      ['no shell', 'FROM scratch\nCOPY static /static\nENTRYPOINT ["/static"]\nCMD ["--version"]\n', [], /^v1\.3\.1\n$/],
    ];
    for (const [name, dockerfile, args, expected] of kinds) {
      it(`run with ${name}`, async () => {
        const tag = `hpcs-test/${name.replaceAll(' ', '-')}`;
        await site.image(tag, { Dockerfile: dockerfile, static: await readFile(join(site.directory, 'programs/age')) });
        const job = await runJob(site, await prepareImage(site, tag), data, args.length > 0 ? ['--', ...args] : []);
        assert.equal(job.code, 0, job.stderr);
        assert.match(await resultText(await openJob(site, job.jobId), 'stdout'), expected);
      });
    }

    it('are refused with neither entrypoint nor cmd', async () => {
      await site.image('hpcs-test/neither', { Dockerfile: 'FROM scratch\nCOPY x /x\n', x: 'x' });
      const exit = await site.hpcs([
        'container-prep',
        '-b',
        'hpcs-test/neither',
        '-e',
        '-u',
        'alice',
        '-c',
        'nid000001',
        '--pull',
        'never',
        '--data-path-at-rest',
        site.scratch,
      ]);
      assert.match(exit.stderr, /neither/);
      assert.ok([2, 3].includes(exit.code), String(exit.code));
    });
  });

  describe('data', () => {
    it('arrive with every kind of name, and links', async () => {
      const odd = join(site.temporary, 'odd names');
      await mkdir(join(odd, 'empty'), { recursive: true });
      const names = ['with space', 'line\nbreak', 'ünï ☃', '-dash', 'quote\'"', 'x'.repeat(200)];
      for (const name of names) await writeFile(join(odd, name), `content of ${name}`);
      await symlink('with space', join(odd, 'link'));
      const job = await runJob(site, image, await prepareData(site, odd, { name: 'odd.tgz' }), ['--', 'list']);
      assert.equal(job.code, 0, job.stderr);
      const found = join(await openJob(site, job.jobId), 'data', 'odd names');
      assert.deepEqual((await readdir(found)).toSorted(), [...names, 'empty', 'link'].toSorted());
      for (const name of names) assert.equal(await readFile(join(found, name), 'utf8'), `content of ${name}`);
      assert.equal(await readlink(join(found, 'link')), 'with space');
    });

    it('may be a single file, or an empty directory', async () => {
      await writeFile(join(site.temporary, 'single.bin'), 'alone');
      await mkdir(join(site.temporary, 'nothing'));
      const single = await prepareData(site, join(site.temporary, 'single.bin'), { name: 'single.tgz' });
      const nothing = await prepareData(site, join(site.temporary, 'nothing'), { name: 'nothing.tgz' });
      for (const [prepared, name] of [
        [single, 'single.bin'],
        [nothing, 'nothing'],
      ] as const) {
        // prettier-ignore
        const job = await runJob(site, image, prepared, ['--', 'list']);
        assert.equal(job.code, 0, job.stderr);
        assert.deepEqual(await readdir(join(await openJob(site, job.jobId), 'data')), [name]);
      }
    });

    it('with an unreadable file publish nothing', async () => {
      const bad = join(site.temporary, 'bad');
      await mkdir(bad);
      await writeFile(join(bad, 'secret'), 'x');
      await chmod(join(bad, 'secret'), 0);
      // The tests run as root, for whom no file is unreadable unless it gives up the capabilities for that.
      const caps = '-dac_override,-dac_read_search';
      const args = ['-i', bad, '-u', 'alice', '-c', 'nid000001', '--data-path', 'bad.tgz', '--data-path-at-rest', site.scratch];
      const exit = await site.hpcs(['data-prep', ...args], {
        through: ['setpriv', `--inh-caps=${caps}`, `--bounding-set=${caps}`],
      });
      assert.equal(exit.code, 3, exit.stderr);
      assert.match(exit.stderr, /bad\/secret/);
      assert.equal((await site.run(`ls -A ${site.scratch} | grep bad; true`)).stdout, '');
    });
  });

  it('runs an image and a dataset that are larger than the memory of the job', async () => {
    const megabytes = 400;
    await mkdir(join(site.temporary, 'large'));
    await writeFile(join(site.temporary, 'large', 'noise'), randomBytes(megabytes * 1024 * 1024));
    const large = await prepareData(site, join(site.temporary, 'large'), { name: 'large.tgz' });
    // Memory of all of alice's processes on the node, shared pages counted once, and of all tmpfs of the machine; in MiB.
    const measure = async (): Promise<{ processes: number; tmpfs: number }> => {
      const sum = `for p in $(pgrep -u alice -f 'hpcs-node|gocryptfs|apptainer|squashfuse'); do cat /proc/$p/smaps_rollup; done 2>/dev/null | awk '/^Pss:/ {s += $2} END {print int(s / 1024)}'`;
      const { stdout } = await site.run(`${sum}; awk '/^Shmem:/ {print int($2 / 1024)}' /proc/meminfo`, 'root');
      const [processes = 0, tmpfs = 0] = stdout.split('\n').map(Number);
      return { processes, tmpfs };
    };
    const before = await measure();
    const peak = { processes: 0, tmpfs: 0 };
    const ended = new AbortController();
    const watch = (async () => {
      while (!ended.signal.aborted) {
        const now = await measure();
        peak.processes = Math.max(peak.processes, now.processes);
        peak.tmpfs = Math.max(peak.tmpfs, now.tmpfs - before.tmpfs);
      }
    })();
    const job = await runJob(site, image, large, ['--mem', `${megabytes}M`, '--', 'sleep', '3']);
    ended.abort();
    await watch;
    assert.equal(job.code, 0, job.stderr);
    assert.ok(peak.processes > 50 && peak.processes < megabytes, `processes took ${peak.processes} MiB`);
    assert.ok(peak.tmpfs < 64, `tmpfs took ${peak.tmpfs} MiB`);
  });

  it('works in the age format, artefacts and results', async () => {
    const ageImage = await prepareImage(site, 'hpcs-test/probe', { name: 'age.sif', format: 'age' });
    const ageData = await prepareData(site, input, { name: 'age.tgz', format: 'age' });
    const job = await runJob(site, ageImage, ageData, ['--format', 'age', '--', 'list']);
    assert.equal(job.code, 0, job.stderr);
    assert.equal(await resultText(await openJob(site, job.jobId), 'data/input/hello.txt'), 'hello\n');
  });

  it('compresses data as asked, whatever the format, and jobs open it', async () => {
    const zeros = join(site.temporary, 'zeros');
    const size = 3 * 1024 * 1024;
    await writeFile(zeros, Buffer.alloc(size));
    for (const [format, compression, small] of [
      ['openpgp', 'auto', true],
      ['openpgp', 'none', false],
      ['age', 'auto', false],
      ['age', 'zstd', true],
      ['openpgp-gpg', 'zstd', true],
    ] as const) {
      const name = `${format}-${compression}.tgz`;
      const prepared = await prepareData(site, zeros, { name, format, compression });
      const { stdout } = await site.run(`stat -c %s ${site.scratch}/${name}`);
      assert.ok(small ? Number(stdout) < size / 100 : Number(stdout) >= size, `${name}: ${stdout}`);
      if (compression !== 'zstd') continue;
      const job = await runJob(site, image, prepared, ['--', 'list']);
      assert.equal(job.code, 0, job.stderr);
      assert.deepEqual(await readFile(join(await openJob(site, job.jobId), 'data/zeros')), Buffer.alloc(size));
    }
  });

  it('keeps the results of two jobs at once apart, and earlier ones', async () => {
    const [one, two] = await Promise.all([
      runJob(site, image, data, ['--', 'args', 'one']),
      runJob(site, image, data, ['--', 'args', 'two']),
    ]);
    assert.deepEqual([one.code, two.code], [0, 0], one.stderr + two.stderr);
    assert.equal(await resultText(await openJob(site, one.jobId), 'args'), 'one\0');
    assert.equal(await resultText(await openJob(site, two.jobId), 'args'), 'two\0');
  });

  it('publishes beside an earlier artefact and never over it', async () => {
    const first = (await site.run(`sha512sum ${site.scratch}/data.tgz`)).stdout;
    await prepareData(site, input);
    assert.equal((await site.run(`sha512sum ${site.scratch}/data.tgz`)).stdout, first);
    const job = await runJob(site, image, data, ['--', 'list']);
    assert.equal(job.code, 0, job.stderr);
  });

  describe('supplementary scripts', () => {
    const scripts = async (name: string, content: string): Promise<string> => {
      const directory = `${site.scratch}/${name}`;
      await site.run(`mkdir -p ${directory}; cat > ${directory}/check.sh <<'END'\n${content}END\n`);
      return directory;
    };

    it('run before and after the application', async () => {
      const before = await scripts(
        'before',
        '#!/bin/sh\ncat /sd-container/encrypted/input/hello.txt > /sd-container/output/seen\n',
      );
      const after = await scripts('after', '#!/bin/sh\ncat /sd-container/output/exit_code > /sd-container/output/judged\n');
      const job = await runJob(site, image, data, ['-i', before, '-o', after]);
      assert.equal(job.code, 0, job.stderr);
      const results = await openJob(site, job.jobId);
      assert.equal(await resultText(results, 'seen'), 'hello\n');
      assert.equal(await resultText(results, 'judged'), '0\n');
    });

    it('may lie on this machine, and leave nothing of them on the site', async () => {
      const canary = `canary-${Date.now()}`;
      const before = join(site.temporary, 'own before');
      const after = join(site.temporary, 'own after');
      for (const directory of [before, after]) await mkdir(join(directory, 'data'), { recursive: true });
      await writeFile(join(before, 'data/list.txt'), canary);
      const jobs = '/sd-container/tools/input_logic/jobs';
      await writeFile(join(before, `${canary}.sh`), `#!/bin/sh\ncp ${jobs}/data/list.txt /sd-container/output/seen\n`);
      await writeFile(join(after, 'judge.sh'), `#!/bin/sh\nexec cp /sd-container/output/exit_code /sd-container/output/judged\n`);
      const job = await runJob(site, image, data, ['-i', `local:${before}`, '-o', `local:${after}`]);
      assert.equal(job.code, 0, job.stderr);
      assert.match(job.stderr, new RegExp(`^input script ${canary}\\.sh sha256:[0-9a-f]{64}$`, 'm'));
      const results = await openJob(site, job.jobId);
      assert.equal(await resultText(results, 'seen'), canary);
      assert.equal(await resultText(results, 'judged'), '0\n');
      assert.equal((await site.run(`ls ${site.scratch}/.hpcs | grep scripts; true`)).stdout, '');
      // The log names what is run.
      const search = await site.run(
        `grep -rlF --exclude=*.out -e ${canary} ${site.scratch} /var/spool /tmp 2>/dev/null; true`,
        'root',
      );
      assert.equal(search.stdout, '');
    });

    it('that fail before it keep the application from starting', async () => {
      const refuse = await scripts('refuse', '#!/bin/sh\ncat /sd-container/encrypted/input/hello.txt\necho why >&2\nexit 4\n');
      const job = await runJob(site, image, data, ['-i', refuse, '--', 'args', 'never']);
      assert.equal(job.code, 6, job.stderr);
      assert.match(job.stderr, /input-script-failed.*check\.sh.*exit 4/);
      assert.doesNotMatch(job.stderr, /application: starting/);
      // What it prints may be of the data: it goes to its owner, not to the log.
      assert.doesNotMatch(job.stderr, /^(hello|why)$/m);
      assert.equal(await resultText(await openJob(site, job.jobId, ['--partial']), 'input_scripts.log'), 'hello\nwhy\n');
    });

    it('that fail after it withhold the result', async () => {
      const job = await runJob(site, image, data, ['-o', await scripts('withhold', '#!/bin/sh\nexit 5\n')]);
      assert.equal(job.code, 6, job.stderr);
      assert.match(job.stderr, /output-script-failed/);
      const exit = await site.hpcs(['job', 'results', job.jobId, '--output', join(site.temporary, 'withheld')]);
      assert.equal(exit.code, 6, exit.stderr);
      assert.equal((await site.run(`ls ${site.scratch}/test-${job.jobId}`)).stdout.includes('encrypted_output'), false);
    });
  });

  it('reports what the scheduler refuses', async () => {
    const exit = await runJob(site, image, data, ['-p', 'nonexistent']);
    assert.equal(exit.code, 6, exit.stderr);
    assert.match(exit.stderr, /partition/i);
  });

  describe('jobs that end early', () => {
    it('are cancelled, and leave what they wrote as partial results', async () => {
      let jobId = '';
      const running = site.hpcs(jobArguments(site, image, data, ['--', 'sleep', '300']), {
        onStderr: (text) => {
          if (jobId !== '' || !text.includes('application: starting')) return;
          jobId = /job (\d+) on/.exec(text)?.[1] ?? '';
          setTimeout(() => void site.run(`scancel ${jobId}`), 3000);
        },
      });
      const exit = await running;
      assert.notEqual(exit.code, 0);
      const results = await openJob(site, jobId);
      assert.equal(await resultText(results, 'early'), 'started\n');
    });

    it('are timed out, and leave what they wrote as partial results', async () => {
      // Slurm looks each 30 s whether a job has its grace, here 30 s, and 30 s left: with one minute, that could be after 15 s.
      const job = await runJob(site, image, data, ['-t', '00:02:00', '--', 'sleep', '300']);
      assert.notEqual(job.code, 0);
      assert.equal(await resultText(await openJob(site, job.jobId), 'early'), 'started\n');
    });

    it('are killed, and leave what they wrote for --partial', async () => {
      let jobId = '';
      await site.hpcs(jobArguments(site, image, data, ['--', 'sleep', '300']), {
        onStderr: (text) => {
          if (jobId !== '' || !text.includes('application: starting')) return;
          jobId = /job (\d+) on/.exec(text)?.[1] ?? '';
          setTimeout(() => void site.run('pkill -9 -u alice -f hpcs-node', 'root'), 3000);
        },
      });
      const early = await openJob(site, jobId, ['--partial']);
      assert.equal(await resultText(early, 'early'), 'started\n');
      assert.equal((await site.run('pgrep -u alice -f "[h]pcs-node|[g]ocryptfs|[p]robe"; true')).stdout, '');
      // What the killed job could not remove from the node, the next one removes.
      assert.notEqual((await site.run(`ls -d /tmp/hpcs.*.${jobId}.*`)).stdout, '');
      assert.equal((await runJob(site, image, data)).code, 0);
      assert.equal((await site.run(`ls -d /tmp/hpcs.*.${jobId}.*`)).stdout, '');
    });
  });
});
