import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { expect } from 'chai'
import { CommanderError } from 'commander'
import type { Sample } from '#src/bench.ts'
import { fillDocument } from '#src/markdown.ts'
import type { ComparisonReport } from '#src/comparison-report.ts'
import { parseOptions } from '#src/options.ts'
import { reportOf, type Report } from '#src/report.ts'
import { plannedSeconds } from '#src/run.ts'
import { allSubstrates } from '#src/substrates/index.ts'
import { workloads } from '#src/workloads/index.ts'
import { isMatrix } from 'lease-servers'
import { runBench } from './programs.ts'

/** Each arm is a process. */
const quick = `--substrate memory --workload W1,W5 --seconds 0.05 --warm-up 0 --repetitions 2`

const matrixOnly = isMatrix() ? it : it.skip

describe('bench: the command', function () {
  let folder: string

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'lease-bench-'))
  })

  after(() => rm(folder, { recursive: true }))

  matrixOnly(
    'measures what it is asked for, each in a process of its own, as tables, JSON, a chart and a document',
    async () => {
      const [json, svg, markdown] = ['json', 'svg', 'md'].map((kind) => join(folder, `results.${kind}`)) as [
        string,
        string,
        string,
      ]
      const files = ['--json', json, '--svg', svg, '--markdown', markdown]
      const { code, stdout, stderr } = await runBench(...quick.split(' '), '--only', 'ours,store', ...files)
      expect(code, stderr).to.equal(0)
      expect(stdout).to.contain('claim + release, one caller').and.contain('ours ÷ this')
      expect(stderr).to.contain('measurements') // progress is not mixed with the tables
      const { results } = JSON.parse(await readFile(json, 'utf8')) as Report
      expect(results.map(({ workload, rows }) => [workload, ...rows.map(({ label }) => label)])).to.deep.equal([
        ['W1', 'ours', 'store'],
        ...['W5', 'W5'].map((workload) => [workload, 'ours']),
      ])
      for (const { rows } of results) {
        for (const { measured } of rows) {
          for (const { samples, median } of Object.values(measured)) {
            expect(samples).to.have.length(2)
            expect(median).to.be.above(0)
          }
        }
      }
      const [, theirs] = results[0]?.rows ?? []
      expect(results[0]?.rows[0]?.ratios['store']?.median).to.be.above(0)
      expect(theirs?.role).to.equal('raw')
      expect(await readFile(svg, 'utf8'))
        .to.match(/^<svg /)
        .and.contain('W1 on memory')
      const document = await readFile(markdown, 'utf8')
      expect(document).to.contain('<!-- bench W1 memory -->').and.contain('| `store` |')
    },
  )

  matrixOnly('refuses what it does not know before it starts anything', async () => {
    const { code, stdout, stderr } = await runBench('--only', 'nobody')
    expect(code).to.equal(1)
    expect(stderr).to.contain('"nobody" is none of ours, ').and.contain('redlock5, ')
    expect(stdout).to.equal('')
  })

  it('fills the places of a document anew, leaves its text alone, and names the places that are missing', async () => {
    const file = join(folder, 'document.md')
    await writeFile(file, 'Before.\n\n<!-- bench W1 memory -->\n\nold\n\n<!-- /bench -->\n\nAfter.\n')
    const table = {
      substrate: 'memory',
      place: 'memory',
      workload: 'W1',
      title: 'A title',
      repetitions: 1,
      warmUpSeconds: 0,
      metrics: [{ name: 'rate', better: 'more' }],
      references: [],
      rows: [],
      failures: [{ label: 'ours', reason: 'it broke\nat line 1' }],
      unable: [{ label: 'peer', reason: 'it never waits\nat line 1' }],
    } as const
    await fillDocument(file, reportOf(optionsOf(), [table]))
    const filled = await readFile(file, 'utf8')
    expect(filled).to.match(/^Before\.\n\n<!-- bench W1 memory -->\n\nmemory · .*\n\nA title:\n/)
    expect(filled).to.contain('| `peer` | cannot: it never waits |')
    expect(filled).to.contain('Left out: `ours`: it broke\n\n<!-- /bench -->\n\nAfter.\n')
    const error = await fillDocument(file, reportOf(optionsOf(), [{ ...table, workload: 'W2' }])).catch(
      (error: unknown) => error,
    )
    expect(String(error)).to.contain('has no place for <!-- bench W2 memory -->')
    expect(await readFile(file, 'utf8')).to.equal(filled)
  })
})

describe('bench: the command with --against', () => {
  let folder: string

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'lease-bench-'))
  })

  after(() => rm(folder, { recursive: true }))

  // Two processes, and 22 measurements.
  matrixOnly('reports that this checkout is worse than a far faster one, and ends with 2 when asked to', async () => {
    const there = join(folder, 'faster')
    await fakeCheckout(there, { 'pairs/s': 1e12, 'p50 ms': 1e-9, 'p99 ms': 1e-9, 'CPU µs/pair': 1e-6 })
    const json = join(folder, 'comparison.json')
    const only = '--substrate memory --workload W1 --seconds 0.01 --warm-up 0 --fail-if-worse'.split(' ')
    const { code, stdout, stderr } = await runBench('--against', there, ...only, '--json', json)
    expect(code, stderr).to.equal(2)
    expect(stdout)
      .to.contain('W1 on memory: claim + release, one caller: ours\n  pairs: 0.00 ')
      .and.match(/\n {2}worse\n$/)
    expect(stderr).to.contain('22 measurements')
    const { compared, failures } = JSON.parse(await readFile(json, 'utf8')) as ComparisonReport
    expect(failures).to.deep.equal([])
    expect(compared).to.have.length(1)
    const [{ verdict, pairs, cpu } = expect.fail()] = compared
    expect(verdict).to.equal('worse')
    expect(pairs.map(({ first }) => first).slice(0, 3)).to.deep.equal(['here', 'there', 'here'])
    expect(pairs).to.have.length(11)
    for (const { here } of pairs) expect(here['commands/pair']).to.equal(2)
    expect(cpu?.median).to.be.above(1)
  })
})

describe('bench: flags', () => {
  it('narrow it to what was asked for, in any case', () => {
    const options = optionsOf('--substrate', 'Redis', '--workload', 'w1,IDLE', '--only', 'ours', '--waiters', '2,3')
    expect(options.substrates).to.deep.equal(['redis'])
    expect(options.workloads).to.deep.equal(['W1', 'idle'])
    expect(options.only).to.deep.equal(['ours'])
    expect(options.waiters).to.deep.equal([2, 3])
    expect(options.callers).to.deep.equal([16, 64, 256, 2_000])
  })

  it('--quick is other defaults, and gives way to what is said besides', () => {
    const options = optionsOf('--quick', '--waiters', '8', '--seconds', '2')
    expect(options).to.include({ details: false, seconds: 2, repetitions: 3, warmUpSeconds: 0.8 })
    expect(options.waiters).to.deep.equal([8])
    expect(options.others).to.deep.equal([32])
    expect(options.workloads).to.deep.equal(['W1', 'W2', 'W4', 'W7', 'W9'])
    expect(optionsOf()).to.include({ details: true, seconds: 1 })
  })

  it('--quick takes less than 20 minutes', async () => {
    const substrates = await allSubstrates()
    const options = optionsOf('--quick')
    const chosen = workloads.filter(({ name }) => options.workloads.includes(name))
    const where = substrates.filter(({ name }) => options.substrates.includes(name))
    const seconds = plannedSeconds(where, chosen, options)
    expect(seconds).to.be.within(300, 20 * 60 - 90) // servers take time as well
  })

  const refused: readonly (readonly [flags: readonly string[], message: string])[] = [
    [['--substrate', 'oracle'], '"oracle" is none of memory, redis.'],
    [['--workload', 'W1,W99'], '"W99" is none of W1,'],
    [['--only', 'nobody'], '"nobody" is none of ours,'],
    [['--warm-up', '-1'], "argument '-1' is invalid. It must be zero or a number above."],
    [['--seconds', '0'], "argument '0' is invalid. It must be a number above zero."],
    [['--repetitions', '1.5'], 'It must be a whole number above zero.'],
    [['--callers', '64,many'], 'It must be a number above zero.'],
    [['--sizes', ''], 'It must be a number above zero.'],
    [['--others', '1,few'], 'It must be a number above zero.'],
    [['--waiters', '0'], 'It must be a number above zero.'],
    [['--duration', '0.5'], 'It must be a whole number above zero.'],
    [['--svg'], "option '--svg <file>' argument missing"],
    [['--pairs', '11'], "option '--pairs <n>' needs '--against <folder>'"],
    [['--fail-if-worse'], "option '--fail-if-worse' needs '--against <folder>'"],
    [['--against', '.', '--repetitions', '3'], "cannot be used with option '--repetitions <n>'"],
    [['--against', '.', '--svg', 'chart.svg'], "cannot be used with option '--svg <file>'"],
    [['--fast'], "unknown option '--fast'"],
    [['W1'], 'too many arguments'],
  ]
  for (const [flags, message] of refused) {
    it(`refuses ${flags.join(' ')}`, () => {
      expect(() => optionsOf(...flags)).to.throw(CommanderError, message)
    })
  }
})

function optionsOf(...flags: readonly string[]): ReturnType<typeof parseOptions> {
  const choices = { substrates: ['memory', 'redis'], workloads, adapters: ['ours', 'set'] } as const
  return parseOptions(flags, choices, { writeErr: () => {} })
}

/** A checkout as far as it can be seen from outside, which measures the same each time. */
async function fakeCheckout(folder: string, sample: Sample): Promise<void> {
  const programs = join(folder, 'bench', 'dist')
  const memory = "{ adapters: [], open: async () => ({ about: '', url: '', close: async () => {} }) }"
  const files = {
    '../package.json': '{ "name": "lease-bench", "type": "module" }',
    'substrates/index.js': `export const substrateNamed = async () => ({ ...${memory}, reach: async () => {} })`,
    'workloads/index.js': 'export const workloads = []',
    'arm-main.js': `process.on('message', (order) => {
      if (order === 'close') process.exit()
      process.send({ sample: ${JSON.stringify(sample)} })
    })
    process.send({ ready: true })`,
  }
  for (const [name, text] of Object.entries(files)) {
    await mkdir(dirname(join(programs, name)), { recursive: true })
    await writeFile(join(programs, name), text)
  }
}
