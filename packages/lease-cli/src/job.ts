/**
 * A job that ends before its lease can lapse, as `lease exec` sees it.
 *
 *     granted              renewal … no answer …     first signal           KILL         trust window ends
 *        ├───────────────────────────────────────────────┤────── grace ───────┤── 100 ms ──┤
 *
 * - The job is started by its guardian (`guardian.ts`), which also ends it where this process cannot.
 * - As long as renewals arrive, the window moves, and nothing happens.
 * - Lost with the news that another has the lease: KILL at once. Revoked: the signal at once, and KILL after the grace, but within the window
 *   that was known: until then the holder may rely on the lease.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import type { Socket } from 'node:net'
import { fileURLToPath } from 'node:url'
import { ErrLost, Stopwatch, type Clock, type Held, type Timer } from 'lease-core'
import {
  EARLY_MS,
  GUARDIAN_FD,
  GuardianLink,
  type FromGuardian,
  type JobOrder,
  type ToGuardian,
} from './guardian-link.ts'
import { isRunning, membersOf, signalTo } from './process-group.ts'
import { Trust } from './trust.ts'

/** What became of a job. */
export interface JobEnd {
  /** Of the command, once it has run. */
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  /** Why `lease exec` has stopped it; undefined: it ended by itself, or by a signal from outside. */
  readonly stopped: StopReason | undefined
}

/** Why a job was stopped. */
export type StopReason = 'lost' | 'max-time' | 'guardian'

/** The job could not be started. */
export class StartFailure extends Error {
  readonly code: string

  constructor(code: string, message: string) {
    super(message)
    this.code = code
  }
}

/** How a job is run. */
export interface JobOptions {
  readonly held: Pick<Held, 'held' | 'remaining' | 'signal'>
  readonly order: JobOrder
  /** The job is stopped after so long; undefined: never. */
  readonly maxTimeMs: number | undefined
  readonly clock: Clock
  /** Called when the job gets its first signal, and why. */
  readonly stopping: (reason: StopReason, error: unknown) => void
  /** Called when the command has ended and left others in its group. */
  readonly leftovers: (count: number) => void
}

/** A guardian that runs, and waits for a job. Made before the lease is claimed: it takes a moment to start. */
export class JobRunner {
  readonly #process: ChildProcess
  readonly #link: GuardianLink<FromGuardian, ToGuardian>
  readonly #isGroup: boolean
  #options: JobOptions | undefined
  #childPid: number | undefined
  /** Signals that came before the job was started. */
  readonly #pending: NodeJS.Signals[] = []
  #end: { readonly resolve: (end: JobEnd) => void; readonly reject: (error: unknown) => void } | undefined
  #exit: { readonly code: number | null; readonly signal: NodeJS.Signals | null } | undefined
  #stopped: StopReason | undefined
  #isOver = false
  /** By the wish of somebody outside. */
  #isKilled = false
  #timer: Timer | undefined
  #maxTimer: Timer | undefined
  /** The window as it was last seen, for a hold that was revoked since. */
  #lastTrust: Trust | undefined
  /** Aborts when the guardian has ended before there was a job. */
  readonly #unguarded = new AbortController()
  #graceSince: Stopwatch | undefined

  /**
   * @param env of the guardian and of the job: without passwords
   * @param options.isGroup whether the job gets a process group of its own
   */
  constructor(env: Readonly<Record<string, string | undefined>>, { isGroup }: { readonly isGroup: boolean }) {
    this.#isGroup = isGroup
    const program = fileURLToPath(import.meta.url).replace(/job(\.[jt]s)$/, 'guardian$1')
    const nodeOptions = process.execArgv.filter((option) => !option.startsWith('--inspect'))
    this.#process = spawn(process.execPath, [...nodeOptions, program], {
      detached: isGroup,
      env: { ...env },
      stdio: ['inherit', 'inherit', 'inherit', 'pipe'],
    })
    this.#process.on('error', (error) => this.#fail(error))
    this.#link = new GuardianLink(this.#process.stdio[GUARDIAN_FD] as Socket)
    this.#link.listen(
      (message) => this.#hear(message),
      () => this.#guardianGone(),
    )
  }

  /** The process of the guardian, which is also the number of the job's group. */
  get pid(): number | undefined {
    return this.#process.pid
  }

  /** Aborts, with the error that `run` would throw, when the guardian has ended before `run`: there is nothing to wait for. */
  get unguarded(): AbortSignal {
    return this.#unguarded.signal
  }

  /** Runs the job to its end. @throws StartFailure */
  run(options: JobOptions): Promise<JobEnd> {
    return new Promise((resolve, reject) => {
      this.#end = { resolve, reject }
      this.#options = options
      const { held, maxTimeMs, clock } = options
      if (this.#unguarded.signal.aborted) return reject(this.#unguarded.signal.reason)
      held.signal.addEventListener('abort', () => this.#lost(held.signal.reason), { once: true })
      if (held.signal.aborted) return this.#lost(held.signal.reason)
      if (maxTimeMs !== undefined) {
        this.#maxTimer = clock.setTimer(maxTimeMs, () => {
          this.#stop('max-time', undefined)
          this.#plan()
        })
      }
      this.#link.send({ kind: 'prepare' })
    })
  }

  /** Passes a signal on to the group, or to the job alone where it has no group of its own. KILL ends the guardian too. */
  forward(signal: NodeJS.Signals): void {
    if (signal === 'SIGKILL') this.#isKilled = true
    if (this.#childPid === undefined) return void this.#pending.push(signal)
    const { pid } = this.#process
    const target = this.#isGroup && pid !== undefined ? -pid : this.#childPid
    signalTo(target, signal)
  }

  /** Ends a guardian without a job. */
  close(): void {
    this.#link.send({ kind: 'end' })
    this.#link.close()
  }

  #hear(message: FromGuardian): void {
    switch (message.kind) {
      case 'ask':
        return this.#answer(message.ask)
      case 'started':
        this.#childPid = message.pid
        for (const signal of this.#pending.splice(0)) this.forward(signal)
        return this.#plan()
      case 'failed':
        return this.#fail(new StartFailure(message.code, message.message))
      case 'signalled':
        return this.#guardianSignalled()
      case 'exited':
        this.#exit = { code: message.code, signal: message.signal }
        return
      case 'leftovers':
        return this.#options?.leftovers(message.count)
      case 'alone':
        return this.#finish()
    }
  }

  /** The first answer is the order to start. */
  #answer(ask: number): void {
    this.#link.send({ kind: 'trust', ask, remainingMs: Math.max(0, this.#leftMs() + EARLY_MS) })
    if (ask === 1) this.#link.send({ kind: 'run', job: (this.#options as JobOptions).order })
  }

  #leftMs(): number {
    const { held, clock } = this.#options as JobOptions
    const trust = Trust.now(clock, () => held.remaining().toMillis())
    // After a revocation nothing remains, and the holder may rely on what it knew before.
    if (held.held) this.#lastTrust = trust
    return (held.held ? trust : (this.#lastTrust ?? trust)).leftMs - EARLY_MS
  }

  #plan(): void {
    this.#timer?.cancel()
    if (this.#options === undefined || this.#childPid === undefined || this.#isOver) return
    const { order, clock } = this.#options
    const leftMs = this.#leftMs()
    const { graceMs } = order
    const killInMs = this.#graceSince === undefined ? leftMs : Math.min(leftMs, graceMs - this.#graceSince.elapsedMs)
    if (killInMs <= 0) return this.#kill()
    if (leftMs <= graceMs) this.#stop('lost', undefined)
    const nextMs = this.#stopped === undefined ? Math.min(leftMs - graceMs, leftMs / 3) : killInMs
    this.#timer = clock.setTimer(Math.max(1, nextMs), () => this.#plan())
  }

  #lost(reason: unknown): void {
    if (this.#isOver) return
    if (this.#childPid === undefined && this.#stopped === undefined) {
      // Not started, or not known to be: the guardian starts nothing without trust, and what it has started must end.
      this.#stopped = 'lost'
      this.#options?.stopping('lost', reason)
      return this.#kill()
    }
    this.#stop('lost', reason)
    if (reason instanceof ErrLost && reason.reason === 'revoked') return this.#plan()
    this.#kill()
  }

  #stop(reason: StopReason, error: unknown): void {
    // A command that has ended is judged by its code, also if others of its group still have to end.
    if (this.#stopped !== undefined || this.#exit !== undefined) return
    this.#stopped = reason
    const { order, stopping } = this.#options as JobOptions
    this.#link.send({ kind: 'stopping' })
    this.#graceSince = new Stopwatch((this.#options as JobOptions).clock)
    stopping(reason, error)
    this.forward(order.signal)
    this.forward('SIGCONT') // what is stopped gets no other signal
  }

  /** This process was stopped, or too slow to answer. The job is ending, although the lease may have been renewed since. */
  #guardianSignalled(): void {
    if (this.#stopped !== undefined || this.#exit !== undefined || this.#options === undefined) return
    this.#stopped = 'lost'
    this.#graceSince = new Stopwatch(this.#options.clock)
    this.#options.stopping('lost', undefined)
    this.#plan()
  }

  /** Everything in the group at once, the guardian included. Without a group the guardian is left, and reports the end of the job. */
  #kill(): void {
    this.#timer?.cancel()
    const { pid } = this.#process
    if (this.#isGroup) {
      if (pid !== undefined) signalTo(-pid, 'SIGKILL')
    } else if (this.#childPid !== undefined) signalTo(this.#childPid, 'SIGKILL')
    else this.#link.close() // the guardian ends what it may have started, and leaves
  }

  /** The group is empty but for the guardian. */
  #finish(): void {
    if (this.#isOver) return
    this.#isOver = true
    this.#timer?.cancel()
    this.#maxTimer?.cancel()
    this.close()
    this.#end?.resolve({ ...(this.#exit ?? { code: null, signal: 'SIGKILL' }), stopped: this.#stopped })
  }

  /** Killed, by us together with its group or by somebody else. What it guarded must not go on unguarded. */
  #guardianGone(): void {
    if (this.#isOver) return
    if (this.#options === undefined)
      return this.#fail(new StartFailure('guardian', 'the guardian has ended before the command was started'))
    if (this.#exit === undefined && this.#stopped === undefined && !this.#isKilled) {
      // Its last act may have been to end the job in time, while this process was stopped.
      this.#stopped = this.#leftMs() <= this.#options.order.graceMs ? 'lost' : 'guardian'
      this.#options.stopping(this.#stopped, undefined)
    }
    this.#kill()
    void this.#groupGone().then(() => this.#finish())
  }

  async #groupGone(): Promise<void> {
    if (this.#options === undefined) return
    while (await this.#isAnyoneLeft()) {
      this.#kill()
      await new Promise<void>((resolve) => void this.#options?.clock.setTimer(5, resolve))
    }
  }

  async #isAnyoneLeft(): Promise<boolean> {
    const { pid } = this.#process
    if (this.#isGroup) return pid !== undefined && (await membersOf(pid)).length > 0
    if (this.#childPid !== undefined) return isRunning(this.#childPid)
    return pid !== undefined && (await isRunning(pid))
  }

  #fail(error: unknown): void {
    if (this.#isOver) return
    this.#isOver = true
    this.#timer?.cancel()
    this.#maxTimer?.cancel()
    this.close()
    if (this.#options === undefined) this.#unguarded.abort(error)
    this.#end?.reject(error)
  }
}
