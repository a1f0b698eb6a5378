import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { appendFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect } from 'chai'
import { judge, judgeFolder } from '#src/chaos/checks/index.ts'
import { chaos as command } from '#src/chaos/command.ts'
import { folderOfItsOwn, HistoryWriter, readHistory } from '#src/chaos/history.ts'
import { isMatrix, programOf } from 'lease-servers'
import type { ChaosEvent } from '#src/chaos/event.ts'
import { callEvents, phaseEvent, reliedEvents, SETTINGS } from './chaos-histories.ts'

const overlap: readonly ChaosEvent[] = [
  ...callEvents({ operation: 'hold', holder: 'p1-0-0', sentMs: 0, answeredMs: 10, token: 5 }),
  ...reliedEvents({ holder: 'p1-0-0', token: 5 }, { fromMs: 11, toMs: 60 }),
  ...reliedEvents({ holder: 'p2-0-0', token: 6 }, { fromMs: 40, toMs: 90 }),
]

describe('the history of a chaos run', () => {
  let folder: string
  beforeEach(async () => {
    folder = mkdtempSync(join(tmpdir(), 'chaos-'))
    await using writer = new HistoryWriter(folder, SETTINGS)
    for (const event of overlap) writer.write(event)
  })
  afterEach(() => rmSync(folder, { recursive: true }))

  it('is judged by the first and the last sample of each term as by all of them', async () => {
    const long: readonly ChaosEvent[] = [
      ...overlap,
      ...reliedEvents({ holder: 'p1-1-0', token: 8 }, { fromMs: 100, toMs: 400, trustedUntilMs: 405 }),
      { worker: 'p1', what: 'aborted', lease: 'cold-1', token: '8', held: false, detail: 'ErrLost', atMs: 450 },
      ...reliedEvents({ holder: 'p2-1-0', token: 7 }, { fromMs: 500, toMs: 600 }),
    ].toSorted((a, b) => a.atMs - b.atMs)
    await using writer = new HistoryWriter(folder, SETTINGS)
    for (const event of long) writer.write(event)
    await writer.close()
    const history = await readHistory(folder)
    expect(history.events).to.have.length.below(long.length / 2)
    const verdict = judge(history)
    expect(verdict).to.deep.equal(judge({ ...history, events: long }))
    expect(new Set(verdict.violations.map(({ check }) => check))).to.deep.equal(new Set(['C1', 'C6']))
  })

  it('gets the same verdict in parts as in one piece', async () => {
    const any = callEvents({
      operation: 'hold-any',
      holder: 'p1-2-0',
      lease: 'any',
      sentMs: 100,
      answeredMs: 110,
      token: 9,
    })
    const more: readonly ChaosEvent[] = [
      ...overlap,
      ...any.map((event) => (event.what === 'answered' ? { ...event, lease: 'any-1' } : event)),
      ...reliedEvents({ holder: 'p1-2-0', lease: 'any-1', token: 9 }, { fromMs: 111, toMs: 115 }),
      ...reliedEvents({ holder: 'p2-2-0', lease: 'any-1', token: 8 }, { fromMs: 120, toMs: 140 }),
      ...callEvents({
        operation: 'find',
        holder: 'p1-3-0',
        lease: 'hot-0',
        sentMs: 150,
        answeredMs: 160,
        outcome: 'failed',
      }),
      { worker: 'p1', what: 'uncaught', detail: 'Error', atMs: 170 },
      { worker: 'run', what: 'fault', detail: 'stall', atMs: 171 },
      phaseEvent('quiet', 180),
      ...callEvents({
        operation: 'find',
        holder: 'p1-4-0',
        lease: 'hot-1',
        sentMs: 190,
        answeredMs: 200,
        outcome: 'unknown',
      }),
      phaseEvent('impatient', 210),
      { worker: 'run', what: 'gone', lease: 'p2', detail: 'stuck', atMs: 215 },
      phaseEvent('end', 220),
    ].toSorted((a, b) => a.atMs - b.atMs)
    await using writer = new HistoryWriter(folder, SETTINGS)
    for (const event of more) writer.write(event)
    await writer.close()
    const whole = await judgeFolder(folder)
    const found = whole.violations.map(({ check, lease }) => `${check} ${lease}`)
    expect(found).to.include.members(['C1 cold-1', 'C1 any-1', 'C5 p1', 'C7 p1', 'C7 p2'])
    for (const bytes of [400, 1000, 5000]) {
      const { violations, ...rest } = await judgeFolder(folder, bytes)
      const { violations: _, ...expected } = whole
      expect(rest).to.deep.equal(expected)
      expect(violations).to.have.deep.members([...whole.violations])
    }
  })

  it('is in a folder of its own: what is there is not written over, whatever its seed', async () => {
    const first = folderOfItsOwn(folder, 'redis-7')
    writeFileSync(join(first, 'kept'), '')
    expect(['redis-7', 'redis-7', 'redis-8'].map((name) => folderOfItsOwn(folder, name))).to.deep.equal(
      ['redis-7-2', 'redis-7-3', 'redis-8'].map((name) => join(folder, name)),
    )
    expect(readdirSync(first)).to.deep.equal(['kept'])
    expect(folderOfItsOwn(join(folder, 'new', 'place'), 'redis-7')).to.equal(join(folder, 'new', 'place', 'redis-7'))
  })

  it('is read as it was written', async () => {
    const { settings, events, damage } = await readHistory(folder)
    expect(settings).to.deep.equal(SETTINGS)
    const samples = overlap.filter(({ what }) => what === 'relied')
    const ends = ['p1-0-0', 'p2-0-0'].flatMap((name) => {
      const own = samples.filter(({ holder }) => holder === name)
      return [own[0], own.at(-1)]
    })
    expect(events).to.have.deep.members([...overlap.filter(({ what }) => what !== 'relied'), ...ends])
    expect(damage).to.deep.equal([])
  })

  it('loses nothing but its last line when that is truncated, and says so', async () => {
    const file = join(folder, 'history.ndjson')
    writeFileSync(file, readFileSync(file, 'utf8').trimEnd().slice(0, -10))
    const before = overlap.at(-2)
    const { events, damage } = await readHistory(folder)
    expect(events.at(-1)).to.deep.equal(before)
    expect(damage.join()).to.match(new RegExp(`^line ${overlap.length} is no event`))
  })

  it('is checked when it is truncated, and the command says which line is lost', async () => {
    const file = join(folder, 'history.ndjson')
    writeFileSync(file, readFileSync(file, 'utf8').trimEnd().slice(0, -10))
    const { output } = await chaos(['check', folder])
    expect(output).to.match(new RegExp(`^redis: line ${overlap.length} is no event: `))
    expect(output).to.match(/C1 cold-1 at 0.040 s: p2-0-0 while p1-0-0 did/)
  })

  it('names a line in the middle that is no event, and reads the rest', async () => {
    appendFileSync(join(folder, 'history.ndjson'), 'nonsense\n{"worker":"p1","what":"ready","atMs":99}\n')
    const { events, damage } = await readHistory(folder)
    expect(events.at(-1)).to.include({ what: 'ready' })
    expect(damage).to.have.length(1)
  })

  it('is not read from a folder that has none', async () => {
    rmSync(join(folder, 'history.ndjson'))
    const errorOf = async (): Promise<string> => readHistory(folder).then(String, (error: Error) => error.message)
    expect(await errorOf()).to.equal(`${folder} has no history.ndjson`)
    writeFileSync(join(folder, 'run.json'), '{}')
    expect(await errorOf()).to.match(/does not say what was run$/)
    rmSync(join(folder, 'run.json'))
    expect(await errorOf()).to.match(/is not a history: it has no run.json$/)
  })

  it('is checked and drawn again by the command', async () => {
    const checked = await chaos(['check', folder])
    expect(checked.code).to.equal(1)
    expect(checked.output).to.match(/C1 cold-1 at 0.040 s: p2-0-0 while p1-0-0 did, for 20.0 ms/)
    expect((await chaos(['draw', folder])).code).to.equal(0)
    const drawing = readFileSync(join(folder, 'timeline.html'), 'utf8')
    expect(drawing).to.match(/<rect [^>]*><title>p1-0-0, token 5, 49.0 ms</)
    expect(drawing).to.match(/<line class="wrong"[^>]*><title>C1: p2-0-0 while/)
    expect(drawing).not.to.match(/https?:|<script|<link/)
  })
})

describe('the command chaos', () => {
  const bad: readonly (readonly [args: readonly string[], words: RegExp])[] = [
    [['--seed', 'x'], /^error: option '--seed <n>' argument 'x' is invalid\. It must be a whole number\.$/],
    [['--on', 'redis,oracle'], /^error: .* There is no ground "oracle", only postgres, .*\.$/],
    [['--minutes', '0'], /^error: .* It must be a number of minutes above 0, at most 600\.$/],
    [['--nemesis', ','], /^error: .* It must be names, separated by commas\.$/],
    [['check', '/nowhere'], /^\/nowhere is not a history: it has no run\.json$/],
  ]
  for (const [args, words] of bad) {
    it(`says in one line what is wrong with ${args.join(' ')}`, async () => {
      const { code, output } = await chaos(args)
      expect(code).to.equal(1)
      expect(output.trim()).to.match(words)
    })
  }

  it('says in one line that a store does not start', async () => {
    const { code, output } = await chaosProcess(['--on', 'redis'], { LEASE_SERVERS_ORIGINS: 'none of them' })
    expect(code).to.equal(1)
    expect(output.trim()).to.match(/^no Redis 7 or later on this machine: install it .*$/)
  })

  const matrixOnly = isMatrix() ? it : it.skip // the next one opens a store, too
  matrixOnly('says in one line that a store cannot have a nemesis, and which it has', async () => {
    const { code, output } = await chaos(['--on', 'redis', '--nemesis', 'none,etcd-nospace'])
    expect(code).to.equal(1)
    expect(output).to.match(/^redis has no nemesis "etcd-nospace"; it has none, stop-short, .*$/m)
  })

  it('says in one line that a nemesis needs a compiler where there is none', async () => {
    const empty = mkdtempSync(join(tmpdir(), 'no-programs-'))
    const { PATH: before } = process.env
    process.env['PATH'] = empty
    try {
      const { code, output } = await chaos(['--on', 'redis', '--nemesis', 'wall-workers'])
      expect(code).to.equal(1)
      expect(output).to.match(
        /^redis has no nemesis "wall-workers" here \(the shim .* there is no cc\); it has none, .*$/m,
      )
    } finally {
      process.env['PATH'] = before
      rmSync(empty, { recursive: true })
    }
  })
})

interface Ended {
  readonly code: number | null
  readonly output: string
}

/** The command in this process: another one takes a second to start. */
async function chaos(args: readonly string[]): Promise<Ended> {
  const lines: string[] = []
  const out = (line: string): void => void lines.push(line)
  const code = await command(args, { out, err: out, signal: new AbortController().signal })
  return { code, output: lines.join('\n') }
}

/** The command as a process, for what its environment decides. */
async function chaosProcess(args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<Ended> {
  const program = programOf('../src/chaos/main.ts', import.meta.url)
  const child = spawn(process.execPath, [...program, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...env },
  })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (bytes: Buffer) => (output += String(bytes)))
  const [code] = (await once(child, 'close')) as [number | null]
  return { code, output }
}
