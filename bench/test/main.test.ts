import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect } from 'chai'
import { etcdTargets, postgresTargets, redisTargets } from 'lease-servers'
import type { Report } from '../src/report.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const [postgres] = postgresTargets()
const [redis] = redisTargets('server')
const [etcd] = etcdTargets(1)
const workloads = ['W1', 'W2', 'W3', 'W4', 'W6', 'W8']
const quick = ['--seconds', '0.05', '--callers', '8', '--sizes', '20', '--duration', '150', '--waiters', '2']

/** What may well be zero. */
const mayBeZero = ['CPU µs/renewal', 'loop delay p99 ms', 'lost', 'commands/s waiting']
/** What only the library's rows have. */
const ofLibrary = ['timers', 'lost', 'waited p99 ÷ p50', 'commands/hand-off', 'commands/s waiting']

describe('bench: the command', function () {
  this.timeout(120_000)
  let folder: string

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'lease-bench-'))
  })

  after(() => rm(folder, { recursive: true }))

  it('measures every workload, as tables and as JSON', async () => {
    const json = join(folder, 'memory.json')
    const { code, stdout, stderr } = await bench(
      ...quick,
      '--substrate',
      'memory',
      '--repetitions',
      '2',
      '--json',
      json,
    )
    expect(code, stderr).to.equal(0)
    expect(stdout).to.contain('claim + release, 8 concurrent callers')
    expect(stderr).to.contain('measurements') // progress is not mixed with the tables
    const report = JSON.parse(await readFile(json, 'utf8')) as Report
    expectMeasured(report, 'memory')
    for (const { workload, metrics, references, rows } of report.results) {
      expect(references.length, workload).to.be.above(0)
      const main = metrics[0]?.name ?? ''
      for (const { label, measured, ratios } of rows) {
        for (const { samples } of Object.values(measured)) expect(samples).to.have.length(2)
        for (const reference of references) {
          const own = measured[main]?.samples ?? []
          const theirs = rows.find((row) => row.label === reference)?.measured[main]?.samples ?? []
          const [first = 0, second = 0] = own.map((value, round) => value / (theirs[round] ?? Number.NaN))
          const median = ratios[reference]?.median ?? Number.NaN
          if (Number.isFinite((first + second) / 2)) {
            expect(median, `${workload} ${label}`).to.be.closeTo((first + second) / 2, Math.abs(median) * 1e-6)
          }
        }
      }
    }
  })

  // Each kind of adapter once; those with more in flight are the same.
  const smoked: Readonly<Record<string, string>> = {
    postgres: 'ours,statement,row,statement-batch-2,row-batch',
    redis: 'ours,script,set,script-batch-2,set-batch',
    etcd: 'ours,transaction,key,transaction-batch-2',
  }
  for (const [substrate, adapters] of Object.entries(smoked)) {
    it(`measures every workload on ${substrate}`, async () => {
      const json = join(folder, `${substrate}.json`)
      const only = ['--substrate', substrate, '--only', adapters]
      const { code, stderr } = await bench(...quick, ...only, '--repetitions', '1', '--json', json)
      expect(code, stderr).to.equal(0)
      expectMeasured(JSON.parse(await readFile(json, 'utf8')) as Report, substrate)
    })
  }

  it('a flag narrows it to what was asked for', async () => {
    const json = join(folder, 'narrow.json')
    const only = ['--substrate', 'memory', '--workload', 'w1', '--only', 'ours']
    const { code, stderr } = await bench(...quick, ...only, '--repetitions', '1', '--json', json)
    expect(code, stderr).to.equal(0)
    const { results } = JSON.parse(await readFile(json, 'utf8')) as Report
    expect(results.map(({ substrate, workload }) => [substrate, workload])).to.deep.equal([['memory', 'W1']])
    expect(results[0]?.rows.map(({ label }) => label)).to.deep.equal(['ours'])
  })

  const refused: readonly (readonly [flags: readonly string[], message: string])[] = [
    [['--substrate', 'oracle'], '"oracle" is none of memory, postgres, redis, etcd.'],
    [['--workload', 'W1,W99'], '"W99" is none of W1,'],
    [['--only', 'nobody'], '"nobody" is none of ours,'],
    [['--seconds', '0'], "argument '0' is invalid. It must be a number above zero."],
    [['--repetitions', '1.5'], 'It must be a whole number above zero.'],
    [['--callers', '64,many'], 'It must be a number above zero.'],
    [['--sizes', ''], 'It must be a number above zero.'],
    [['--waiters', '0'], 'It must be a number above zero.'],
    [['--duration', '0.5'], 'It must be a whole number above zero.'],
    [['--fast'], "unknown option '--fast'"],
    [['W1'], 'too many arguments'],
  ]
  for (const [flags, message] of refused) {
    it(`refuses ${flags.join(' ')}`, async () => {
      const { code, stdout, stderr } = await bench(...flags)
      expect(code).to.equal(1)
      expect(stderr).to.contain(message)
      expect(stdout).to.equal('')
    })
  }

  it('adapters that are not on that substrate leave nothing to measure, which is an error', async () => {
    const { code, stderr } = await bench('--substrate', 'memory', '--only', 'row')
    expect(code).to.equal(1)
    expect(stderr).to.equal('error: no adapter can do any of these workloads: nothing was measured\n')
  })
})

function expectMeasured({ results }: Report, substrate: string): void {
  expect(new Set(results.map((result) => `${result.substrate} ${result.workload}`))).to.deep.equal(
    new Set(workloads.map((workload) => `${substrate} ${workload}`)),
  )
  for (const { workload, metrics, rows } of results) {
    expect(rows.map(({ role }) => role)).to.include('library', workload)
    // A heap that is measured over a few leases may come out smaller than before.
    if (workload === 'W6') continue
    for (const { label, role, measured } of rows) {
      for (const { name } of metrics) {
        if (role !== 'library' && ofLibrary.includes(name)) continue
        const median = measured[name]?.median
        if (mayBeZero.includes(name)) expect(median, `${workload} ${label} ${name}`).to.be.at.least(0)
        else expect(median, `${workload} ${label} ${name}`).to.be.greaterThan(0)
      }
    }
  }
}

function bench(...flags: readonly string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const node = ['--import', 'tsx', '--conditions', 'lease-source', '--expose-gc', 'bench/src/main.ts']
  const env = {
    ...process.env,
    DATABASE_URL: postgres?.url,
    REDIS_URL: redis?.url,
    ETCD_ENDPOINTS: etcd?.endpoints.join(),
  }
  return new Promise((resolve) => {
    execFile(process.execPath, [...node, ...flags], { cwd: root, env }, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr })
    })
  })
}
