/** The demo: sets the stage, runs the story, and checks the books. */
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { inspect } from 'node:util'
import { audit, type Books, type Finding } from './books.ts'
import { draw } from './picture.ts'
import { Stage } from './stage.ts'
import { Disturbed, OPENING, type Outcome, SHORTEST_LEASE_MS, type StoryOptions, tell } from './story.ts'
import { Timeline, wantsColor } from './timeline.ts'
import { COMMAND, parse, pictureNames, type Wishes } from './usage.ts'
import { venueNames } from './venues.ts'

/** How often the demo repeats a disturbed story; each repetition doubles the leases. */
const RETRIES = 5

const signals = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 } as const

class Stopped extends Error {
  readonly exitCode: number

  constructor(message: string, exitCode: number) {
    super(message)
    this.exitCode = exitCode
  }
}

/** A story that was reported to its end. */
interface Told {
  readonly exitCode: number
  readonly outcome: Outcome
  /** What the auditor found in the books. */
  readonly findings: readonly Finding[]
  readonly store: string
}

async function play(wishes: Wishes, stopping: AbortController): Promise<number> {
  if (wishes.draw === undefined) return (await playOnce(wishes, newTimeline(), stopping)).exitCode
  const files: string[] = []
  for (const kind of ['guarded', 'unguarded'] as const) {
    const guarded = kind === 'guarded'
    const timeline = newTimeline()
    const { exitCode, outcome, findings, store } = await playOnce({ ...wishes, guarded }, timeline, stopping)
    if (exitCode !== (guarded ? 0 : 1)) {
      timeline.note('Nothing is drawn: this run did not show what a picture is for.')
      return exitCode === 0 ? 1 : exitCode
    }
    const file = join(wishes.draw, pictureNames[kind])
    await mkdir(wishes.draw, { recursive: true })
    await writeFile(file, draw(outcome.recording, { store, findings }))
    files.push(file)
  }
  newTimeline().verdict(`Drawn from these two runs: ${files.join(', ')}`, 'good')
  return 0
}

function newTimeline(): Timeline {
  return new Timeline(process.stdout, {
    color: wantsColor(process.stdout, process.env),
    columns: process.stdout.columns ?? (Number(process.env['COLUMNS']) || undefined),
  })
}

async function playOnce({ on, guarded }: Wishes, timeline: Timeline, stopping: AbortController): Promise<Told> {
  timeline.title(guarded ? 'Leases with the guard' : 'The same WITHOUT the guard')
  timeline.note(
    'Workers move money between accounts. Who moves money holds the lease of both accounts, each with a ' +
      'fencing token (#) that rises with every new holder.',
  )
  let stage: Stage
  try {
    stage = await Stage.set({ on, opening: OPENING, env: process.env, waitFor: (step) => timeline.waitFor(step) })
  } finally {
    timeline.arrived()
  }
  timeline.note(`The accounts are in ${stage.description}.`)
  let cleaned = true
  let told: Told
  try {
    const { signal } = stopping
    signal.throwIfAborted()
    const outcome = await toldUndisturbed(stage, { guarded, timeline, signal })
    const books = await stage.books()
    const findings = audit(books, (fencingToken) => outcome.recording.tokens.show(fencingToken))
    const exitCode = closeBooks(timeline, { on, guarded }, outcome, { ...books, findings })
    told = { exitCode, outcome, findings, store: stage.store }
  } finally {
    await stage[Symbol.asyncDispose]().catch((error: unknown) => {
      cleaned = false // reported, but it must not mask why the story ended
      process.stderr.write(`\nlease-demo: ${stage.description} could not be cleaned up: ${messagesOf(error)}\n`)
    })
  }
  return cleaned ? told : { ...told, exitCode: 3 }
}

/** Tells the story again, with accounts as they were and longer leases, while the machine is too slow for it. */
async function toldUndisturbed(
  stage: Stage,
  options: Pick<StoryOptions, 'guarded' | 'timeline' | 'signal'>,
): Promise<Outcome> {
  let leaseMs = SHORTEST_LEASE_MS
  for (let left = RETRIES; ; left--) {
    try {
      return await tell({ ...options, place: stage.place, leaseMs })
    } catch (error) {
      if (!(error instanceof Disturbed)) throw error
      if (left === 0) throw new Error(`this machine is too slow: ${error.message}`, { cause: error })
      options.timeline.title('This machine was too slow. The story starts again, with longer leases')
      options.timeline.note(`Disturbed: ${error.message}.`)
      leaseMs = 2 * error.leaseMs
      await stage.clear()
    }
  }
}

/** Shows the books and says what to think of them. Returns the exit code. */
function closeBooks(
  timeline: Timeline,
  { on, guarded }: Wishes,
  outcome: Outcome,
  books: Books & Pick<Told, 'findings'>,
): number {
  timeline.title('The books')
  for (const { name, opening, balance } of books.accounts) {
    const entries = books.entries.filter((entry) => entry.account === name)
    const moves = entries.map(({ worker, amount }) => `${amount > 0 ? '+' : ''}${amount} ${worker}`)
    const change = `${String(opening).padStart(4)} →${String(balance).padStart(4)}`
    timeline.entry(`  ${name.padEnd(6)}${change}   `, moves.map((move) => move.replace(' ', '\u00A0')).join(', '))
  }
  const { findings } = books
  const accidents = [
    {
      holds: ['alice', 'dave'].every((account) => outcome.takeovers.includes(account)),
      text: `leases taken over from the frozen and the killed worker: ${outcome.takeovers.join(', ') || 'none'}`,
    },
    ...(guarded ? [{ holds: outcome.refused, text: 'the stale write was refused' }] : []),
  ]
  for (const { holds, text } of [...findings, ...accidents])
    timeline.entry(holds ? '  ✓ ' : '  ✗ ', text, holds ? 'good' : 'bad')

  const balanced = findings.every(({ holds }) => holds)
  const shown = accidents.every(({ holds }) => holds)
  if (!balanced) timeline.verdict('The books DO NOT balance (exit code 1).', 'bad')
  else if (!shown) timeline.verdict('The books balance, but not everything happened that should (exit code 1).', 'bad')
  else timeline.verdict('The books balance.', 'good')
  if (guarded && balanced) {
    timeline.note('See what the guard is good for:')
    timeline.entry('  ', `${COMMAND}${on === venueNames[0] ? '' : ` --on ${on}`} --unguarded`)
  }
  if (!guarded && !balanced) {
    timeline.note(
      'Why: cyan checked its leases in the store, then its clock, and then wrote at once. Both checks were right. ' +
        'The pause came between the last check and the write: no check inside the worker can see it. A worker that ' +
        'knows of its loss writes nothing; cyan learned of it when its write was on its way. With the guard, the ' +
        'store checks the lease as part of the write.',
    )
  }
  return balanced && shown ? 0 : 1
}

function failed(error: unknown, stopping: AbortSignal): number {
  const cause: unknown = stopping.aborted ? stopping.reason : error
  if (cause instanceof Stopped) {
    process.stderr.write(`\nlease-demo: ${cause.message}\n`)
    return cause.exitCode
  }
  process.stderr.write(`\nlease-demo: the story could not be shown: ${messagesOf(cause).trimEnd()}\n`)
  return 3
}

/** The message of an error and of its causes. */
function messagesOf(error: unknown): string {
  if (!(error instanceof Error)) return inspect(error)
  // Node reports a refused connection without a message when it has tried several addresses.
  const own = error.message || (error instanceof AggregateError ? error.errors.map(messagesOf).join('; ') : error.name)
  if (error.cause === undefined) return own
  const cause = messagesOf(error.cause)
  return own.includes(cause) ? own : `${own}: ${cause}`
}

async function main(): Promise<number> {
  const parsed = parse(process.argv.slice(2))
  if ('exitCode' in parsed) {
    const out = parsed.exitCode === 0 ? process.stdout : process.stderr
    await new Promise<void>((resolve) => out.write(parsed.text, () => resolve()))
    return parsed.exitCode
  }
  if (process.platform === 'win32') {
    process.stderr.write('lease-demo: a process cannot be frozen on Windows; try it in WSL or a container\n')
    return 3
  }
  const stopping = new AbortController()
  for (const [name, exitCode] of Object.entries(signals)) {
    process.on(name, () => {
      if (stopping.signal.aborted) process.exit(exitCode) // asked twice: without waiting for the server
      stopping.abort(new Stopped(`stopped by ${name}`, exitCode))
    })
  }
  process.stdout.on('error', () => stopping.abort(new Stopped('nobody reads on', 3))) // for example: demo | head
  try {
    return await play(parsed, stopping)
  } catch (error) {
    return failed(error, stopping.signal)
  }
}

process.exit(await main()) // also when a connection to a server that hangs is still open
