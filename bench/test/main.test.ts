import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect } from 'chai'
import { CommanderError } from 'commander'
import { fillDocument } from '#src/markdown.ts'
import { parseOptions } from '#src/options.ts'
import { reportOf, type Report } from '#src/report.ts'
import { workloads } from '#src/workloads/index.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const quick = '--substrate memory --workload W1,W5 --seconds 0.05 --warm-up 0 --repetitions 2'.split(' ')

describe('bench: the command', function () {
  this.timeout(120_000)
  let folder: string

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'lease-bench-'))
  })

  after(() => rm(folder, { recursive: true }))

  it('measures what it is asked for, each in a process of its own, as tables, JSON, a chart and a document', async () => {
    const [json, svg, markdown] = ['json', 'svg', 'md'].map((kind) => join(folder, `results.${kind}`)) as [
      string,
      string,
      string,
    ]
    const files = ['--json', json, '--svg', svg, '--markdown', markdown]
    const { code, stdout, stderr } = await bench(...quick, '--only', 'ours,store', ...files)
    expect(code, stderr).to.equal(0)
    expect(stdout).to.contain('claim + release, one caller').and.contain('ours ÷ this')
    expect(stderr).to.contain('measurements') // progress is not mixed with the tables
    const { results } = JSON.parse(await readFile(json, 'utf8')) as Report
    expect(results.map(({ workload, rows }) => [workload, ...rows.map(({ label }) => label)])).to.deep.equal([
      ['W1', 'ours', 'store'],
      ['W5', 'ours'],
      ['W5', 'ours'],
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
  })

  it('refuses what it does not know before it starts anything', async () => {
    const { code, stdout, stderr } = await bench('--only', 'nobody')
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
      failures: [{ label: 'peer', reason: 'it broke\nat line 1' }],
    } as const
    await fillDocument(file, reportOf(optionsOf(), [table]))
    const filled = await readFile(file, 'utf8')
    expect(filled).to.match(/^Before\.\n\n<!-- bench W1 memory -->\n\nmemory · .*\n\nA title:\n/)
    expect(filled).to.contain('Left out: `peer`: it broke\n\n<!-- /bench -->\n\nAfter.\n')
    const error = await fillDocument(file, reportOf(optionsOf(), [{ ...table, workload: 'W2' }])).catch(
      (error: unknown) => error,
    )
    expect(String(error)).to.contain('has no place for <!-- bench W2 memory -->')
    expect(await readFile(file, 'utf8')).to.equal(filled)
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

  const refused: readonly (readonly [flags: readonly string[], message: string])[] = [
    [['--substrate', 'oracle'], '"oracle" is none of memory, redis.'],
    [['--workload', 'W1,W99'], '"W99" is none of W1,'],
    [['--only', 'nobody'], '"nobody" is none of ours,'],
    [['--warm-up', '-1'], "argument '-1' is invalid. It must be zero or a number above."],
    [['--seconds', '0'], "argument '0' is invalid. It must be a number above zero."],
    [['--repetitions', '1.5'], 'It must be a whole number above zero.'],
    [['--callers', '64,many'], 'It must be a number above zero.'],
    [['--sizes', ''], 'It must be a number above zero.'],
    [['--waiters', '0'], 'It must be a number above zero.'],
    [['--duration', '0.5'], 'It must be a whole number above zero.'],
    [['--svg'], "option '--svg <file>' argument missing"],
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

function bench(...flags: readonly string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const node = ['--import', 'tsx', '--conditions', 'lease-source', '--expose-gc', 'bench/src/main.ts']
  return new Promise((resolve) => {
    execFile(process.execPath, [...node, ...flags], { cwd: root }, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr })
    })
  })
}
