/**
 * The guardian of a job: the parent of its command, and the leader of the process group that they share. It is a program of its own, so
 * that the job ends before the lease can lapse whatever happens to `lease exec`:
 *
 *   | lease exec      | guardian       | what happens                                                                           |
 *   |-----------------|----------------|----------------------------------------------------------------------------------------|
 *   | runs            | runs           | `lease exec` signals in time; the guardian would, a moment later                       |
 *   | killed          | runs           | the socket closes: the group gets the signal at once, and KILL after the grace, in time |
 *   | stopped (STOP)  | runs           | no answer to its questions: the group gets the signal, and KILL, in time               |
 *   | runs            | killed         | the socket closes: `lease exec` kills the group                                        |
 *   | runs            | stopped        | `lease exec` signals in time: KILL also ends what is stopped                           |
 *   | stopped         | stopped        | a job in the same group was stopped with the guardian (`kill -STOP -group`, a frozen container) and does nothing either. A guardian that was stopped alone ends the job when it goes on |
 *   | killed          | killed         | nobody is left to end the job: only guards and fencing tokens protect what it writes    |
 *
 * There is no moment in which a job runs that nobody watches: the group exists, and `lease exec` knows it, before the command starts.
 *
 * It gets no URL and no password: neither as argument nor in its environment.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { Socket } from 'node:net'
import { reasonOf, Stopwatch, systemClock, type Timer } from 'lease-core'
import {
  GUARDIAN_EARLY_MS,
  GUARDIAN_FD,
  GuardianLink,
  type FromGuardian,
  type JobOrder,
  type ToGuardian,
} from './guardian-link.ts'
import { membersOf, signalTo } from './process-group.ts'
import { Trust } from './trust.ts'

/** Its group gets these too, and it goes on. */
const SURVIVED: readonly NodeJS.Signals[] = [
  'SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2', 'SIGALRM', 'SIGWINCH', 'SIGCONT', 'SIGTSTP', 'SIGTTIN', 'SIGTTOU', 'SIGPIPE',
] // prettier-ignore
/** How often it asks: so many times in the time that is left. */
const ASKS = 5
/** Not more often, in milliseconds. */
const ASK_EVERY_MS = 25
/** How often it looks who is left in the group. */
const LOOK_EVERY_MS = 20
/** So much of the grace it waits for `lease exec` to signal first. */
const PATIENCE = 0.2

class Guardian {
  readonly #link = new GuardianLink<ToGuardian, FromGuardian>(
    new Socket({ fd: GUARDIAN_FD, readable: true, writable: true }),
  )
  readonly #asked = new Map<number, Stopwatch>()
  #asks = 0
  #trust: Trust | undefined
  #job: JobOrder | undefined
  #child: ChildProcess | undefined
  #timer: Timer | undefined
  #isSignalled = false
  #isOrphaned = false
  /** Since when the grace counts, where it is for the guardian to end it. */
  #graceSince: Stopwatch | undefined

  /** Takes orders until `lease exec` is gone. */
  listen(): void {
    for (const signal of SURVIVED) process.on(signal, () => {})
    this.#link.listen(
      (message) => this.#hear(message),
      () => this.#orphaned(),
    )
  }

  #hear(message: ToGuardian): void {
    switch (message.kind) {
      case 'prepare':
        return this.#ask()
      case 'trust': {
        const since = this.#asked.get(message.ask)
        if (since === undefined) return
        for (const ask of this.#asked.keys()) if (ask <= message.ask) this.#asked.delete(ask)
        this.#trust = new Trust(since, message.remainingMs)
        return this.#plan()
      }
      case 'run':
        return this.#run(message.job)
      case 'stopping':
        this.#isSignalled = true
        return this.#plan()
      case 'end':
        process.exit(0)
    }
  }

  #run(job: JobOrder): void {
    this.#job = job
    if (this.#leftMs() <= 0) {
      this.#link.send({ kind: 'failed', code: 'late', message: 'the lease could not be relied on any more' })
      return
    }
    try {
      this.#child = spawn(job.file, [...job.args], { stdio: 'inherit', env: { ...process.env, ...job.env } })
    } catch (error) {
      return this.#link.send({ kind: 'failed', code: codeOf(error), message: reasonOf(error) })
    }
    const { pid } = this.#child
    this.#child.once('error', (error) => {
      if (pid === undefined) this.#link.send({ kind: 'failed', code: codeOf(error), message: reasonOf(error) })
    })
    if (pid === undefined) return
    this.#link.send({ kind: 'started', pid })
    this.#child.once('exit', (code, signal) => {
      this.#link.send({ kind: 'exited', code, signal })
      void this.#clearGroup(job)
    })
    this.#plan()
  }

  /** `lease exec` is gone. Without a job there is nothing to guard. */
  #orphaned(): void {
    this.#isOrphaned = true
    if (this.#child?.pid === undefined) process.exit(0)
    this.#signal()
    this.#graceSince ??= new Stopwatch(systemClock)
    this.#plan()
  }

  #leftMs(): number {
    return (this.#trust?.leftMs ?? 0) - GUARDIAN_EARLY_MS
  }

  /** Does what is due, and sets the timer for what comes next. */
  #plan(): void {
    this.#timer?.cancel()
    if (this.#child?.pid === undefined || this.#job === undefined) return
    const { graceMs } = this.#job
    const leftMs = this.#leftMs()
    const killInMs = this.#graceSince === undefined ? leftMs : Math.min(leftMs, graceMs - this.#graceSince.elapsedMs)
    if (killInMs <= 0) return this.#kill()
    const signalInMs = leftMs - graceMs * (1 - PATIENCE)
    if (signalInMs <= 0 && !this.#isSignalled) {
      this.#link.send({ kind: 'signalled' })
      this.#signal()
    }
    const askInMs = Math.max(ASK_EVERY_MS, leftMs / ASKS)
    const nextMs = Math.min(killInMs, askInMs, this.#isSignalled ? killInMs : signalInMs)
    this.#timer = systemClock.setTimer(Math.max(1, nextMs), () => {
      this.#ask()
      this.#plan()
    })
  }

  #ask(): void {
    if (this.#isOrphaned) return
    const ask = ++this.#asks
    this.#asked.set(ask, new Stopwatch(systemClock))
    this.#link.send({ kind: 'ask', ask })
  }

  /** Sends the first signal, once: some programs take a second one for an order to drop everything. */
  #signal(): void {
    if (this.#isSignalled) return
    this.#isSignalled = true
    this.#send(this.#job?.signal ?? 'SIGTERM')
    this.#send('SIGCONT') // what is stopped gets no other signal
  }

  #kill(): void {
    this.#timer?.cancel()
    this.#send('SIGKILL') // also ends this process, where it is in the group
    if (this.#isOrphaned) process.exit(0)
  }

  #send(signal: NodeJS.Signals): void {
    const target = this.#job?.isGroup === true ? -process.pid : this.#child?.pid
    if (target !== undefined) signalTo(target, signal)
  }

  /** The command has ended: so must everything that it has left behind, before the lease may be released. */
  async #clearGroup(job: JobOrder): Promise<void> {
    let others = job.isGroup ? await this.#others() : 0
    if (others > 0) {
      this.#link.send({ kind: 'leftovers', count: others })
      this.#signal()
      this.#graceSince ??= new Stopwatch(systemClock)
      this.#plan()
    }
    while (others > 0) {
      await new Promise<void>((resolve) => void systemClock.setTimer(LOOK_EVERY_MS, resolve))
      others = await this.#others()
    }
    this.#timer?.cancel()
    if (this.#isOrphaned) process.exit(0)
    this.#link.send({ kind: 'alone' })
  }

  async #others(): Promise<number> {
    const members = await membersOf(process.pid)
    return members.filter((pid) => pid !== process.pid).length
  }
}

function codeOf(error: unknown): string {
  const { code } = Object(error) as { readonly code?: unknown }
  return typeof code === 'string' ? code : 'failed'
}

const guardian = new Guardian()
guardian.listen()
