/**
 * `lease exec`: runs a command while a lease is held.
 *
 * 1. Starts the guardian, claims the lease (and waits for it, with `--wait`), and lets the guardian start the command.
 * 2. Passes signals on to the group of the command.
 * 3. Stops the command before the lease can lapse (`job.ts`), also where this process is stopped or killed (`guardian.ts`).
 * 4. Releases the lease once nobody of the group is left, and ends with the code of the command.
 */
import { readFileSync } from 'node:fs'
import { constants } from 'node:os'
import { resolve } from 'node:path'
import {
  ErrClaimDenied,
  ErrLost,
  reasonOf,
  Stopwatch,
  traceWork,
  uniqueHolder,
  type Held,
  type Hold,
  type Manager,
} from 'lease-core'
import { ErrLimitMismatch, ReadWriteLock, Semaphores } from 'lease-recipes'
import type { Context } from '../context.ts'
import { parseDuration, showDuration } from '../durations.ts'
import { CommandEnd, EXIT, wrongUsage } from '../exit-codes.ts'
import type { JobOrder } from '../guardian-link.ts'
import { JobRunner, StartFailure, type JobEnd, type StopReason } from '../job.ts'
import { heldForMs, viewOf } from '../lease-view.ts'
import { SECRET_VARIABLES } from '../settings.ts'
import type { Store } from '../store.ts'
import { waitOf } from '../wait-flag.ts'
import { runShell } from './watch.ts'

/** The flags of `lease exec`. */
export interface ExecFlags {
  readonly wait?: string | boolean
  readonly ifBusy?: string
  readonly busyExitCode?: string
  readonly duration?: string
  readonly permits?: string
  readonly shared?: boolean
  readonly exclusive?: boolean
  readonly any?: boolean
  readonly holder?: string
  readonly value?: string
  readonly announce?: boolean
  readonly atLeast?: string
  readonly maxTime?: string
  readonly killAfter?: string
  readonly signal?: string
  readonly foreground?: boolean
  readonly onLost?: string
  readonly shell?: string
}

/** Passed on to the command. */
const FORWARDED: readonly NodeJS.Signals[] = [
  'SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2', 'SIGWINCH', 'SIGCONT', 'SIGTSTP',
] // prettier-ignore
/** They end a wait. */
const ENDING: readonly NodeJS.Signals[] = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT']
/** A terminal sends these to every process of its foreground group: they are there already. */
const OF_TERMINAL: readonly NodeJS.Signals[] = ['SIGINT', 'SIGQUIT', 'SIGTSTP', 'SIGWINCH']

const SHORTEST_MS = 1_000
const DURATION_MS = 30_000
const GRACE_MS = 5_000
/** How long a release may take: the command has ended, and its user waits. */
const RELEASE_MS = 5_000

interface Plan {
  readonly names: readonly string[]
  readonly file: string
  readonly args: readonly string[]
  readonly wait: number | boolean
  readonly durationMs: number
  readonly graceMs: number
  readonly atLeastMs: number
  readonly maxTimeMs: number | undefined
  readonly signal: NodeJS.Signals
  readonly holder: string
  readonly value: string | undefined
  readonly busyCode: number
  readonly permits: number | undefined
}

/** Runs the command under the lease. @param command what stands behind `--` */
export async function exec(
  context: Context,
  names: readonly string[],
  command: readonly string[],
  flags: ExecFlags,
): Promise<number> {
  const plan = planOf(context, names, command, flags)
  await context.mustWrite()
  if (process.platform === 'win32')
    throw new CommandEnd(EXIT.failed, 'lease exec needs process groups, which Windows does not have')
  const settings = await context.settings.read()
  const env = Object.fromEntries(Object.entries(context.io.env).filter(([name]) => !SECRET_VARIABLES.includes(name)))
  const runner = new JobRunner(env, { isGroup: flags.foreground !== true })
  const signals = new SignalRelay(context, runner, flags.foreground === true)
  const noJob = AbortSignal.any([signals.ended, runner.unguarded])
  let store: Store | undefined
  try {
    store = await context.open(settings, { signal: noJob })
    const endEvents = follow(context, store, plan)
    try {
      const held = await claim(store.manager, plan, flags, noJob)
      return await runHeld({ context, store, plan, flags, runner, signals }, held)
    } finally {
      endEvents()
    }
  } catch (error) {
    return onFailure(context, plan, flags, error)
  } finally {
    signals.end()
    runner.close()
    await store?.close().catch(() => {}) // the command has ended; its code matters
  }
}

interface Running {
  readonly context: Context
  readonly store: Store
  readonly plan: Plan
  readonly flags: ExecFlags
  readonly runner: JobRunner
  readonly signals: SignalRelay
}

async function runHeld({ context, store, plan, flags, runner, signals }: Running, held: Held): Promise<number> {
  const { out, io } = context
  const since = new Stopwatch(io.clock)
  const variables = {
    LEASE_NAME: nameOf(held, plan),
    LEASE_HOLDER: held.holder,
    LEASE_FENCING_TOKEN: String(held.fencingToken),
    LEASE_NAMESPACE: store.namespace,
    LEASE_HELD: '1',
  }
  const { file, args, signal, graceMs } = plan
  const order: JobOrder = { file, args, env: variables, isGroup: flags.foreground !== true, signal, graceMs }
  let why: { readonly reason: StopReason; readonly error: unknown } | undefined
  let end: JobEnd
  try {
    signals.started()
    const run = (): Promise<JobEnd> =>
      runner.run({
        held,
        order,
        maxTimeMs: plan.maxTimeMs,
        clock: io.clock,
        stopping: (reason, error) => {
          why = { reason, error }
          out.fail(wordsFor(reason, error, plan))
        },
        leftovers: (count) =>
          out.warn(
            `the command has ended, and left ${count} ${count === 1 ? 'process' : 'processes'} behind: they are ended before the lease is released`,
          ),
      })
    const { holder, fencingToken } = held
    end = await traceWork({ lease: variables.LEASE_NAME, holder, fencingToken, signal: held.signal }, run)
  } catch (error) {
    await release(context, store, plan, held, 0)
    throw error
  }
  await release(context, store, plan, held, why === undefined ? plan.atLeastMs - since.elapsedMs : 0)
  if (why?.reason === 'lost' && flags.onLost !== undefined) {
    const code = await runShell(flags.onLost, io.env, { ...variables, LEASE_HELD: '0', LEASE_LOST: lossOf(why.error) })
    if (code !== 0) out.warn(`the command of --on-lost ended with ${code}`)
  }
  if (end.stopped === 'guardian') return EXIT.failed
  if (end.stopped !== undefined) return EXIT.stopped
  return end.code ?? 128 + (end.signal === null ? 0 : constants.signals[end.signal])
}

/** A failure is a warning: the command has done its work, and the lease lapses by itself. */
async function release(
  { out, io }: Context,
  { manager }: Store,
  { durationMs }: Plan,
  held: Held,
  keepMs: number,
): Promise<void> {
  const limit = new AbortController()
  const timer = io.clock.setTimer(RELEASE_MS, () => limit.abort())
  const tooLong = new Promise<never>((_, reject) => {
    limit.signal.addEventListener('abort', () => reject(new Error('the store did not answer')), { once: true })
  })
  try {
    if (keepMs > 0 && 'letLapse' in held) {
      const hold = held as Hold
      if (keepMs > hold.remaining().toMillis())
        await Promise.race([manager.claim(hold.lease, hold.holder, Math.ceil(keepMs)), tooLong])
      hold.letLapse()
    } else if (held.held) await Promise.race([held.release(), tooLong])
  } catch (error) {
    out.warn(`the lease could not be released (${reasonOf(error)}): it lapses within ${showDuration(durationMs)}`)
  } finally {
    timer.cancel()
    tooLong.catch(() => {})
  }
}

async function claim(
  manager: Manager,
  plan: Plan,
  { shared, exclusive, any, announce }: ExecFlags,
  signal: AbortSignal,
): Promise<Held> {
  const { names, holder, wait, durationMs: duration, value } = plan
  const [name = ''] = names
  if (shared === true || exclusive === true) {
    const lock = new ReadWriteLock({ manager, name, duration })
    return shared === true ? lock.rlock(holder, { wait, signal }) : lock.wlock(holder, { wait, signal })
  }
  if (plan.permits !== undefined) {
    const semaphores = new Semaphores({ manager })
    return semaphores.post(name, holder, duration, { n: plan.permits, wait, signal, keepAlive: true })
  }
  const options = { duration, wait, signal, value, announce: announce === true }
  return any === true ? manager.holdAny(names, holder, options) : manager.hold(name, holder, options)
}

function onFailure({ out, verbose }: Context, plan: Plan, { ifBusy }: ExecFlags, error: unknown): number {
  if (error instanceof ErrLimitMismatch)
    throw wrongUsage(`${plan.names[0]} has ${error.n} permits, and --permits says ${error.asked}`)
  if (error instanceof ErrClaimDenied) {
    const words = `${plan.names.join(', ')} ${plan.names.length > 1 ? 'are all' : 'is'} held by ${error.currentHolder ?? 'others'}`
    if (ifBusy === 'skip') {
      if (verbose) out.note(`lease: ${words}: skipped`)
      return EXIT.ok
    }
    throw new CommandEnd(plan.busyCode, words, 'wait for it with --wait, or end with 0 instead: --if-busy skip')
  }
  if (error instanceof StartFailure) {
    if (error.code === 'late') throw new CommandEnd(EXIT.stopped, 'the lease was lost before the command was started')
    if (error.code === 'ENOENT') throw new CommandEnd(EXIT.notFound, `${plan.file}: there is no such program`)
    if (error.code === 'guardian') throw new CommandEnd(EXIT.failed, error.message)
    throw new CommandEnd(EXIT.cannotExecute, `${plan.file} cannot be started: ${error.message}`)
  }
  throw error
}

/** With `--verbose` says what a wait looks like: the position, and who holds the lease. */
function follow({ out, verbose, io }: Context, { events, manager }: Store, { names }: Plan): () => void {
  const startedMs = io.clock.monotonic()
  return events.subscribe((event) => {
    if (!verbose) return
    if (event.type === 'warning') out.warn(event.message)
    if (event.type === 'waiting') out.note(`lease: waiting for ${event.lease}, position ${event.position}`)
    if (event.type === 'denied') {
      void manager.find(event.lease).then(
        (info) => {
          if (info === undefined) return
          const forMs = heldForMs(viewOf(event.lease, info), io.clock.now())
          out.note(
            `lease: ${event.lease} is held by ${info.holder}${forMs === undefined ? '' : ` for ${showDuration(forMs)}`}`,
          )
        },
        () => {},
      )
    }
    if (event.type === 'claimed' && !event.renewed)
      out.note(`lease: ${names.join(', ')} granted after ${showDuration(io.clock.monotonic() - startedMs)}`)
    if (event.type === 'retrying')
      out.note(`lease: ${event.operation} of ${event.lease} failed and is tried again: ${reasonOf(event.cause)}`)
  })
}

/** Signals to this process: before the grant they end the wait, afterwards they are for the command. */
class SignalRelay {
  readonly #waiting = new AbortController()
  readonly #ends: readonly (() => void)[]
  #hasStarted = false
  #interrupts = 0

  constructor({ io }: Context, runner: JobRunner, isForeground: boolean) {
    this.#ends = FORWARDED.map((signal) =>
      io.onSignal(signal, () => {
        if (!this.#hasStarted) {
          if (ENDING.includes(signal)) this.#waiting.abort(new CommandEnd(128 + constants.signals[signal]))
          return
        }
        if (signal === 'SIGINT' && ++this.#interrupts > 1) return runner.forward('SIGKILL')
        if (isForeground && io.asks && OF_TERMINAL.includes(signal)) return
        runner.forward(signal)
      }),
    )
  }

  /** Aborts when a signal ends the wait. */
  get ended(): AbortSignal {
    return this.#waiting.signal
  }

  /** From now on signals are for the command. @throws what ended the wait just before */
  started(): void {
    this.#hasStarted = true
    this.#waiting.signal.throwIfAborted()
  }

  end(): void {
    for (const end of this.#ends) end()
  }
}

/** The name that the command hears: of a share the name that was asked for. */
function nameOf(held: Held, { names }: Plan): string {
  const { lease } = held as Partial<Hold>
  return lease !== undefined && names.includes(lease) ? lease : (names[0] ?? '')
}

function wordsFor(reason: StopReason, error: unknown, { names, signal }: Plan): string {
  const stops = `the command gets ${signal}`
  if (reason === 'max-time') return `the time of --max-time is over: ${stops}`
  if (reason === 'guardian') return 'the guardian of the command was killed: the command is killed too'
  if (error === undefined) return `${names.join(', ')} could not be renewed, and would lapse soon: ${stops}`
  return `${names.join(', ')} was lost (${lossOf(error)}): ${stops}`
}

function lossOf(error: unknown): string {
  return error instanceof ErrLost ? error.reason : 'unreachable'
}

function planOf(context: Context, names: readonly string[], command: readonly string[], flags: ExecFlags): Plan {
  const [file, ...args] = commandOf(context, command, flags)
  if (names.length === 0) throw wrongUsage('no lease is named', 'lease exec NAME -- COMMAND')
  if (names.length > 1 && flags.any !== true) {
    throw wrongUsage(
      `several leases are named: ${names.join(' ')}`,
      'for whichever is free: --any; a time belongs to its flag with =: --wait=30s',
      'the command stands behind --',
    )
  }
  const kinds = [flags.any, flags.shared, flags.exclusive, flags.permits !== undefined].filter(
    (one) => one === true,
  ).length
  if (kinds > 1) throw wrongUsage('--any, --shared, --exclusive and --permits exclude each other')
  const isLease = kinds === 0 || flags.any === true
  if (!isLease && (flags.value !== undefined || flags.announce === true || flags.atLeast !== undefined)) {
    throw wrongUsage('--value, --announce and --at-least are not for --shared, --exclusive and --permits')
  }
  if (flags.ifBusy !== undefined && flags.ifBusy !== 'skip' && flags.ifBusy !== 'fail') {
    throw wrongUsage(`--if-busy must be skip or fail (got ${flags.ifBusy})`)
  }
  if (flags.ifBusy === 'skip' && flags.busyExitCode !== undefined)
    throw wrongUsage('--if-busy skip and --busy-exit-code exclude each other: skip ends with 0')
  const durationMs = flags.duration === undefined ? DURATION_MS : parseDuration(flags.duration, '--duration')
  if (durationMs < SHORTEST_MS)
    throw wrongUsage(
      `--duration must be at least 1s (got ${flags.duration})`,
      'the command has to be stopped before the lease can lapse',
    )
  const signal = signalOf(flags.signal)
  return {
    names,
    file: file as string,
    args,
    wait: waitOf(flags.wait),
    durationMs,
    graceMs: graceOf(flags.killAfter, durationMs),
    atLeastMs: flags.atLeast === undefined ? 0 : parseDuration(flags.atLeast, '--at-least', { zero: true }),
    maxTimeMs: flags.maxTime === undefined ? undefined : parseDuration(flags.maxTime, '--max-time'),
    signal,
    holder: flags.holder ?? uniqueHolder(),
    value: valueOf(context, flags.value),
    busyCode: codeOf(flags.busyExitCode),
    permits: countOf(flags.permits),
  }
}

function commandOf({ io }: Context, command: readonly string[], { shell }: ExecFlags): readonly string[] {
  if (shell !== undefined) {
    if (command.length > 0) throw wrongUsage('-c and a command behind -- exclude each other')
    return [io.env['SHELL'] ?? '/bin/sh', '-c', shell]
  }
  if (command.length === 0 || command[0] === '') {
    throw wrongUsage(
      'no command: it stands behind --',
      'lease exec nightly -- ./nightly.sh --all',
      `lease exec nightly -c './nightly.sh && ./report.sh'`,
    )
  }
  return command
}

/** The grace lies inside the lease: it must be over before the next renewal is missed by long. */
function graceOf(text: string | undefined, durationMs: number): number {
  if (text === undefined) return Math.min(GRACE_MS, durationMs / 4)
  const graceMs = parseDuration(text, '--kill-after', { zero: true })
  if (graceMs <= durationMs / 2) return graceMs
  throw wrongUsage(
    `--kill-after must be at most half of --duration (got ${text} of ${showDuration(durationMs)})`,
    `--duration ${showDuration(2 * graceMs)}: the grace lies inside the lease`,
  )
}

function signalOf(text: string = 'TERM'): NodeJS.Signals {
  const name = text.toUpperCase()
  const signal = (name.startsWith('SIG') ? name : `SIG${name}`) as NodeJS.Signals
  if (constants.signals[signal] === undefined)
    throw wrongUsage(
      `--signal must be the name of a signal (got ${text.slice(0, 20)})`,
      '--signal TERM, INT, QUIT, HUP',
    )
  return signal
}

function valueOf({ io }: Context, text: string | undefined): string | undefined {
  if (text?.startsWith('@') !== true) return text
  try {
    return readFileSync(resolve(io.cwd, text.slice(1)), 'utf8')
  } catch (error) {
    throw wrongUsage(`--value cannot be read: ${reasonOf(error)}`)
  }
}

function codeOf(text: string | undefined): number {
  if (text === undefined) return EXIT.busy
  if (!/^\d{1,3}$/.test(text) || Number(text) > 255)
    throw wrongUsage(`--busy-exit-code must be from 0 to 255 (got ${text.slice(0, 20)})`)
  return Number(text)
}

function countOf(text: string | undefined): number | undefined {
  if (text === undefined) return undefined
  if (!/^[1-9]\d{0,8}$/.test(text))
    throw wrongUsage(`--permits must be a whole number from 1 (got ${text.slice(0, 20)})`)
  return Number(text)
}
