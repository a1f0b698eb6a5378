import { expect } from 'chai'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { isMatrix, programOf, until } from 'lease-servers'
import type { Fault } from '#src/faults.ts'
import { type Trial, tryFaults } from '#src/mutants.ts'
import { root } from '#src/test-files.ts'

const file = 'packages/lease-core/src/skew.ts'
const window = '  return durationMs - durationMs * DRIFT_RATE - DRIFT_FLOOR_MS'

function fault(name: string, to: string, more: Partial<Fault> = {}): Fault {
  return {
    package: 'core',
    name,
    sentence: 'the trust window is shorter than the duration',
    page: file,
    tests: ['packages/lease-core/test/skew.test.ts'],
    edits: [{ file, from: window, to }],
    harmless: undefined,
    ...more,
  }
}

describe('the trial of faults', () => {
  const matrixOnly = isMatrix() ? it : it.skip // copies and compiles the workspace
  matrixOnly(
    'says of each which test noticed it, that it survived, or that it is stale; sources stay as they are',
    async () => {
      const before = await readFile(join(root, file), 'utf8')
      const trials: Trial[] = []
      const faults = [
        fault('noticed', '  return durationMs'),
        fault('stale', '', { edits: [{ file, from: 'what nobody wrote', to: undefined }] }),
        fault('no code', '  return ('),
        fault('no test', '  return durationMs', { tests: ['packages/lease-core/test/nothing.test.ts'] }),
        fault('harmless', '  return durationMs', { harmless: 'nobody asks' }),
        fault('survives', `${window} + 0`),
        fault('noticed again', '  return durationMs + 1'),
      ]
      await tryFaults(faults, { jobs: 1, signal: new AbortController().signal, onDone: (trial) => trials.push(trial) })
      expect(Object.fromEntries(trials.map((trial) => [trial.fault.name, trial.outcome]))).to.deep.equal({
        harmless: 'without effect',
        noticed: 'noticed',
        stale: 'stale',
        'no code': 'stale',
        'no test': 'stale',
        survives: 'survived',
        'noticed again': 'noticed',
      })
      const detail = (name: string): string | undefined => trials.find((trial) => trial.fault.name === name)?.detail
      expect(detail('noticed')).to.contain('skew.test.ts: Skew: the arithmetic of trust')
      expect(detail('stale')).to.contain(`found 0 times in ${file}`)
      expect(detail('no code')).to.contain('does not compile')
      expect(await readFile(join(root, file), 'utf8')).to.equal(before)
    },
  )
})

describe('the command that tries faults', () => {
  let folder: string
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'lease-mutants-test-'))
  })
  after(async () => {
    await rm(folder, { recursive: true, force: true })
  })

  /** Its copies of the workspace are made in `folder`. */
  function start(...args: string[]): { readonly child: ChildProcess; readonly output: () => string } {
    const program = programOf('../src/main.ts', import.meta.url)
    const child = spawn(process.execPath, [...program, 'mutants', ...args], {
      cwd: root,
      env: { ...process.env, TMPDIR: folder, DATABASE_URL: 'postgres://postgres@127.0.0.1:1/postgres' },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    let text = ''
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (some: Buffer) => (text += String(some)))
    return { child, output: () => text }
  }

  for (const [what, args, says] of [
    ['a package that has no list', ['--package', 'cron'], 'core, recipes, redis, postgres, etcd'],
    ['a fault that is in no list', ['--only', 'nothing is called so'], 'has "nothing is called so" in its name'],
    ['a commit that does not exist', ['--changed', 'no-such-commit'], 'no-such-commit is no commit'],
    ['a record of some faults', ['--record', '--only', 'window'], '--record wants all faults of a package'],
    ['a count that is no number', ['--jobs', 'many'], 'It must be a whole number.'],
    ['an option that it does not know', ['--fast'], "unknown option '--fast'"],
  ] as const) {
    const isFirst = what === 'a package that has no list' || what === 'a fault that is in no list'
    const declare = isFirst || isMatrix() ? it : it.skip // a process for each
    declare(`refuses ${what}: one line, and code 2`, async () => {
      const { child, output } = start(...args)
      const [code] = await once(child, 'close')
      expect(code).to.equal(2)
      expect(output()).to.contain(says)
      expect(output().trim().split('\n')).to.have.length(1)
    })
  }

  if (!isMatrix()) return // a copy of the workspace for each

  it('says in one line that a server cannot be had, with code 2', async () => {
    const { child, output } = start('--package', 'postgres', '--only', 'guard locks nothing', '--jobs', '1')
    const [code] = await once(child, 'close')
    expect(code, output()).to.equal(2)
    expect(output().trim()).to.match(/^what DATABASE_URL names cannot be reached \(.*\): start it.*$/)
    expect(await readdir(folder)).to.deep.equal([])
  })

  it('tries a fault of the lists, and ends with a table and code 0', async () => {
    const { child, output } = start('--only', 'the earliest time of the store ignores drift', '--jobs', '1')
    const [code] = await once(child, 'close')
    expect(code, output()).to.equal(0)
    expect(output()).to.contain('noticed by')
    expect(output()).to.match(/│ core +│ 1 +│ 1 +│ 0 +│ 0 +│ 0 +│/)
    expect(await readdir(folder)).to.deep.equal([])
  })

  it('leaves nothing behind when it is interrupted', async () => {
    const { child, output } = start('--package', 'core', '--jobs', '1')
    const ended = once(child, 'close')
    await until('a copy of the workspace', async () => (await readdir(folder)).length > 0)
    child.kill('SIGINT')
    expect((await ended)[0], output()).to.equal(130)
    expect(output()).to.contain('interrupted')
    expect(await readdir(folder)).to.deep.equal([])
  })
})
