/** `pnpm demo`: sets the stage, has the story told, and looks at the books. */
import { inspect, parseArgs } from 'node:util'
import { audit, type Books } from './books.ts'
import { Stage } from './stage.ts'
import { OPENING, tell, type Outcome } from './story.ts'
import { Timeline, wantsColor } from './timeline.ts'
import { isVenueName, type VenueName, venueNames } from './venues.ts'

const usage = `Usage: pnpm demo [--on ${venueNames.join('|')}] [--unguarded]

Four worker processes move money between accounts. Who moves money holds the leases of both
accounts. One worker is frozen in the middle of a write until its leases have lapsed, another is
killed. In the end the books are checked.

  --on NAME    where leases and accounts are (default ${venueNames[0]})
  --unguarded  check the leases as before, but write without the guard, and see the damage
  --help       this text

Environment:
  DATABASE_URL    a PostgreSQL server (15 or later) to play on, in a schema of its own
  REDIS_URL       a Redis server (7 or later) to play on, under keys of its own
  ETCD_ENDPOINTS  members of etcd (3.4 or later) to play on, comma separated, under keys of its own
                  What is its own is removed afterwards. Without the variable a server is started
                  and removed again.
  NO_COLOR        no colours

Exit code:
  0  the books balance (and, with the guard: the stale write was refused, and the leases of the
     frozen and the killed worker were taken over)
  1  the books do not balance, or the story did not show what it should
  2  wrong usage
  3  the story could not be told: no server, a worker failed, out of time
`

/** How long the story may take once the stage is set; it takes about ten seconds. */
const LIMIT_MS = 60_000

const signals = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 } as const

class Stopped extends Error {
  readonly exitCode: number

  constructor(message: string, exitCode: number) {
    super(message)
    this.exitCode = exitCode
  }
}

interface Wishes {
  readonly on: VenueName
  readonly guarded: boolean
}

function parse(): Wishes | { readonly exitCode: number } {
  try {
    const { values } = parseArgs({
      args: process.argv.slice(2).filter((arg, index) => index > 0 || arg !== '--'), // pnpm demo -- --unguarded
      options: {
        on: { type: 'string', default: venueNames[0] },
        unguarded: { type: 'boolean' },
        help: { type: 'boolean', short: 'h' },
      },
    })
    if (values.help !== true) {
      const { on = '' } = values
      if (!isVenueName(on)) throw new Error(`--on must be one of ${venueNames.join(', ')}, not '${on}'`)
      return { on, guarded: values.unguarded !== true }
    }
    process.stdout.write(usage)
    return { exitCode: 0 }
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n\n${usage}`)
    return { exitCode: 2 }
  }
}

async function play({ on, guarded }: Wishes, stopping: AbortController): Promise<number> {
  const timeline = new Timeline(process.stdout, { color: wantsColor(process.stdout, process.env) })
  timeline.title(guarded ? 'Leases with the guard' : 'The same WITHOUT the guard')
  timeline.note(
    'Workers move money between accounts. Who moves money holds the lease of both accounts, each with a\n' +
      'fencing token (#) that rises with every new holder. Leases last 2 seconds and are renewed while held.',
  )
  const stage = await Stage.set({
    on,
    opening: OPENING,
    env: process.env,
    starting: (title) => timeline.note(`Starting ${title} …`),
  })
  timeline.note(`The accounts are in ${stage.description}.`)
  let limit: NodeJS.Timeout | undefined
  let cleaned = true
  let exitCode: number
  try {
    const { signal } = stopping
    signal.throwIfAborted()
    const late = new Stopped(`the story was not over after ${LIMIT_MS / 1000} seconds`, 3)
    limit = setTimeout(() => stopping.abort(late), LIMIT_MS)
    const outcome = await tell({ place: stage.place, guarded, timeline, signal })
    exitCode = closeBooks(timeline, { on, guarded }, outcome, await stage.books())
  } finally {
    clearTimeout(limit)
    await stage[Symbol.asyncDispose]().catch((error: unknown) => {
      cleaned = false // told, but it must not mask why the story ended
      process.stderr.write(`\nlease-demo: ${stage.description} could not be cleaned up: ${messagesOf(error)}\n`)
    })
  }
  return cleaned ? exitCode : 3
}

/** Shows the books and says what to think of them. Returns the exit code. */
function closeBooks(timeline: Timeline, { on, guarded }: Wishes, outcome: Outcome, books: Books): number {
  timeline.title('The books')
  for (const { name, opening, balance } of books.accounts) {
    const entries = books.entries.filter((entry) => entry.account === name)
    const moves = entries.map(({ worker, amount }) => `${amount > 0 ? '+' : ''}${amount} ${worker}`)
    timeline.line(
      `  ${name.padEnd(8)}${String(opening).padStart(4)}  ${moves.join(', ').padEnd(48)}${String(balance).padStart(5)}`,
    )
  }
  const findings = audit(books)
  const accidents = [
    {
      holds: ['alice', 'dave'].every((account) => outcome.takeovers.includes(account)),
      text: `leases taken over from the frozen and the killed worker: ${outcome.takeovers.join(', ') || 'none'}`,
    },
    ...(guarded ? [{ holds: outcome.refused, text: 'the stale write was refused' }] : []),
  ]
  for (const { holds, text } of [...findings, ...accidents])
    timeline.line(`  ${holds ? timeline.paint('✓', 'good') : timeline.paint('✗', 'bad')} ${text}`)

  const balanced = findings.every(({ holds }) => holds)
  const shown = accidents.every(({ holds }) => holds)
  timeline.line('')
  if (!balanced) timeline.line(timeline.paint(timeline.bold('The books DO NOT balance (exit code 1).'), 'bad'))
  else if (!shown)
    timeline.line(timeline.paint('The books balance, but not everything happened that should (exit code 1).', 'bad'))
  else timeline.line(timeline.paint(timeline.bold('The books balance.'), 'good'))
  if (guarded && balanced) {
    timeline.note(`See what the guard is good for: pnpm demo${on === venueNames[0] ? '' : ` --on ${on}`} --unguarded`)
  }
  if (!guarded && !balanced) {
    timeline.note('A check before the write was not enough: the pause came after it. The guard is part of the write.')
  }
  return balanced && shown ? 0 : 1
}

function failed(error: unknown, stopping: AbortSignal): number {
  const cause: unknown = stopping.aborted ? stopping.reason : error
  if (cause instanceof Stopped) {
    process.stderr.write(`\nlease-demo: ${cause.message}\n`)
    return cause.exitCode
  }
  process.stderr.write(`\nlease-demo: the story could not be told: ${messagesOf(cause).trimEnd()}\n`)
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
  const parsed = parse()
  if ('exitCode' in parsed) return parsed.exitCode
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
  process.stdout.on('error', () => stopping.abort(new Stopped('nobody reads on', 3))) // such as: pnpm demo | head
  try {
    return await play(parsed, stopping)
  } catch (error) {
    return failed(error, stopping.signal)
  }
}

process.exit(await main()) // also when a connection to a server that hangs is still open
