import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect } from 'chai'
import { postgresTargets } from 'lease-servers'
import type { Report } from '../src/report.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const [target] = postgresTargets()
const quick = ['--seconds', '0.05', '--repetitions', '2', '--callers', '8', '--sizes', '20,40']

describe('bench: the command', function () {
  this.timeout(60_000)
  let folder: string

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'lease-bench-'))
  })

  after(() => rm(folder, { recursive: true }))

  it('measures every workload on memory and on a real server, as tables and as JSON', async () => {
    const json = join(folder, 'all.json')
    const { code, stdout, stderr } = await bench(...quick, '--json', json)
    expect(code, stderr).to.equal(0)
    expect(stdout).to.contain('claim + release, 8 concurrent callers')
    expect(stderr).to.contain('measurements') // progress is not mixed with the tables

    const report = JSON.parse(await readFile(json, 'utf8')) as Report
    const groups = report.results.map(({ substrate, workload }) => `${substrate} ${workload}`)
    expect(new Set(groups)).to.deep.equal(
      new Set(['memory', 'postgres'].flatMap((one) => ['W1', 'W2', 'W6', 'W8'].map((name) => `${one} ${name}`))),
    )
    for (const { substrate, workload, metrics, references, rows } of report.results) {
      const what = `${substrate} ${workload}`
      expect(rows.map(({ role }) => role)).to.include('library', what)
      if (!(substrate === 'postgres' && workload === 'W6')) expect(references.length, what).to.be.above(0)
      for (const { label, measured, ratios } of rows) {
        for (const { name } of metrics) {
          const { median, samples } = measured[name] ?? {}
          expect(samples, `${what} ${label} ${name}`).to.have.length(2)
          // A heap that is measured over a few leases may come out smaller than before.
          if (workload !== 'W6') expect(median, `${what} ${label} ${name}`).to.be.greaterThan(0)
        }
        const main = metrics[0]?.name ?? ''
        for (const reference of references) {
          const own = measured[main]?.samples ?? []
          const theirs = rows.find((row) => row.label === reference)?.measured[main]?.samples ?? []
          const [first = 0, second = 0] = own.map((value, round) => value / (theirs[round] ?? Number.NaN))
          expect(ratios[reference]?.median, `${what} ${label}`).to.be.closeTo((first + second) / 2, 1e-6)
        }
      }
    }
  })

  it('a flag narrows it to what was asked for', async () => {
    const json = join(folder, 'narrow.json')
    const only = ['--substrate', 'memory', '--workload', 'w1', '--only', 'ours']
    const { code, stderr } = await bench(...quick, ...only, '--json', json)
    expect(code, stderr).to.equal(0)
    const { results } = JSON.parse(await readFile(json, 'utf8')) as Report
    expect(results.map(({ substrate, workload }) => [substrate, workload])).to.deep.equal([['memory', 'W1']])
    expect(results[0]?.rows.map(({ label }) => label)).to.deep.equal(['ours'])
  })

  const refused: readonly (readonly [flags: readonly string[], message: string])[] = [
    [['--substrate', 'oracle'], '"oracle" is none of memory, postgres.'],
    [['--workload', 'W1,W99'], '"W99" is none of W1,'],
    [['--only', 'nobody'], '"nobody" is none of ours,'],
    [['--seconds', '0'], "argument '0' is invalid. It must be a number above zero."],
    [['--repetitions', '1.5'], 'It must be a whole number above zero.'],
    [['--callers', '64,many'], 'It must be a number above zero.'],
    [['--sizes', ''], 'It must be a number above zero.'],
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

function bench(...flags: readonly string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const node = ['--import', 'tsx', '--conditions', 'lease-source', '--expose-gc', 'bench/src/main.ts']
  const env = { ...process.env, DATABASE_URL: target?.url }
  return new Promise((resolve) => {
    execFile(process.execPath, [...node, ...flags], { cwd: root, env }, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr })
    })
  })
}
