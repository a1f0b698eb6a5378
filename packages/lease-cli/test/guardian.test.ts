/**
 * The guardian by itself: the test speaks as `lease exec`, and says how long the lease may be relied on. What must not happen is put an hour
 * away, and what must happen has a bound that only ends the test if it does not.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import type { Socket } from 'node:net'
import { expect } from 'chai'
import { programOf, until } from 'lease-servers'
import { GUARDIAN_FD, GuardianLink, type FromGuardian, type JobOrder, type ToGuardian } from '#src/guardian-link.ts'
import { isRunning } from '#src/process-group.ts'

const HOUR_MS = 3_600_000
const DAY_MS = 24 * HOUR_MS
const PROGRAM = programOf('../src/guardian.ts', import.meta.url)
/** Runs on, and sees each signal. */
const IDLE = 'while :; do sleep 0.1; done'
/** Runs until somebody ends it. */
const FOREVER = 'echo "pid $$"; exec sleep 1000'
/** The same, and only KILL ends it. */
const STUBBORN = `trap '' TERM; ${FOREVER}`

/** A guardian, and the end of the link that `lease exec` has. */
class Guarded {
  readonly heard: FromGuardian[] = []
  readonly process: ChildProcess
  readonly link: GuardianLink<FromGuardian, ToGuardian>
  stdout = ''
  hasClosed = false
  isOver = false

  constructor() {
    this.process = spawn(process.execPath, PROGRAM, { detached: true, stdio: ['ignore', 'pipe', 'inherit', 'pipe'] })
    this.process.stdout?.setEncoding('utf8').on('data', (text: string) => (this.stdout += text))
    this.process.on('exit', () => (this.isOver = true))
    this.link = new GuardianLink(this.process.stdio[GUARDIAN_FD] as Socket)
    this.link.listen(
      (message) => this.heard.push(message),
      () => (this.hasClosed = true),
    )
    all.add(this)
  }

  get pid(): number {
    return this.process.pid as number
  }

  /** The first message of this kind. */
  hear<Kind extends FromGuardian['kind']>(kind: Kind, times = 1): Promise<FromGuardian & { readonly kind: Kind }> {
    return until(`${times} ${kind}`, () => {
      const [found] = this.heard.filter((message) => message.kind === kind).slice(times - 1)
      if (found === undefined && this.hasClosed) throw new Error(`closed without it: ${JSON.stringify(this.heard)}`)
      return found as (FromGuardian & { readonly kind: Kind }) | undefined
    })
  }

  /** What a line of the command says. */
  async line(expression: RegExp): Promise<string> {
    const found = await until(`${expression}`, () => expression.exec(this.stdout))
    return found[1] ?? found[0]
  }

  /** Starts the command, where its first answer is that so much is left. @returns the number of the command; undefined: it was late */
  async run(command: string, remainingMs: number, more: Partial<JobOrder> = {}): Promise<number | undefined> {
    this.link.send({ kind: 'prepare' })
    const { ask } = await this.hear('ask')
    this.link.send({ kind: 'trust', ask, remainingMs })
    this.link.send({ kind: 'run', job: orderOf(command, more) })
    const first = await until('a start', () => this.heard.find(({ kind }) => kind === 'started' || kind === 'failed'))
    return first.kind === 'started' ? first.pid : undefined
  }
}

const all = new Set<Guarded>()

const orderOf = (command: string, more: Partial<JobOrder> = {}): JobOrder => ({
  file: 'sh',
  args: ['-c', command],
  env: {},
  isGroup: true,
  signal: 'SIGTERM',
  graceMs: HOUR_MS,
  ...more,
})

const ended = (pid: number): Promise<unknown> => until('the command has ended', async () => !(await isRunning(pid)))

describe('the guardian of a command', () => {
  afterEach(() => {
    for (const { pid } of all) {
      try {
        process.kill(-pid, 'SIGKILL')
      } catch {
        // its group is empty
      }
    }
    all.clear()
  })

  it('starts nothing when its question is answered too late, in the last moment, or with the answer to another', async () => {
    const guarded = new Guarded()
    const answer = async (ask: number, remainingMs: number): Promise<void> => {
      const before = guarded.heard.length
      guarded.link.send({ kind: 'trust', ask, remainingMs })
      guarded.link.send({ kind: 'run', job: orderOf(FOREVER, { graceMs: DAY_MS }) })
      await until('a start', () => guarded.heard.slice(before).some(({ kind }) => kind !== 'ask'))
    }
    guarded.link.send({ kind: 'prepare' })
    await guarded.hear('ask')
    const askedMs = performance.now()
    await answer(99, HOUR_MS)
    await until('some time has passed', () => performance.now() - askedMs > 300)
    await answer(1, 300)
    guarded.link.send({ kind: 'prepare' })
    await guarded.hear('ask', 2)
    await answer(2, 60)
    expect(guarded.heard.map((message) => (message.kind === 'failed' ? message.code : message.kind))).to.deep.equal([
      'ask',
      'late',
      'late',
      'ask',
      'late',
    ])
    guarded.link.send({ kind: 'prepare' })
    await guarded.hear('ask', 3)
    await answer(3, HOUR_MS)
    // Less is left than its part of the grace.
    await guarded.hear('signalled')
    expect(await guarded.hear('exited')).to.include({ code: null, signal: 'SIGTERM' })
    await guarded.hear('alone')
  })

  it('asks again and again, and kills what ignores its signal when no answer comes', async () => {
    for (let remainingMs = 1_000; ; remainingMs *= 2) {
      const guarded = new Guarded()
      const pid = await guarded.run(STUBBORN, remainingMs, { graceMs: 100 })
      if (pid === undefined) continue
      await ended(pid)
      if (guarded.heard.some((message) => message.kind === 'ask' && message.ask > 1)) break // else it was too slow
    }
  })

  it('outlives the signals of its group, and gives no second one: not after lease exec, nor to what is left behind', async () => {
    const guarded = new Guarded()
    const left = `(trap 'echo second' TERM; trap '' INT HUP QUIT ALRM; trap 'exit 0' USR1; echo "left"; ${IDLE}) & ${IDLE}`
    const pid =
      (await guarded.run(`trap '' INT HUP QUIT ALRM; trap 'exit 5' USR2; ${left}`, DAY_MS)) ?? expect.fail('late')
    await guarded.line(/left/)
    for (const signal of ['SIGINT', 'SIGHUP', 'SIGQUIT', 'SIGALRM'] as const) process.kill(-guarded.pid, signal)
    guarded.link.send({ kind: 'stopping' })
    process.kill(pid, 'SIGUSR2')
    expect(await guarded.hear('exited')).to.include({ code: 5 })
    await guarded.hear('leftovers')
    process.kill(-guarded.pid, 'SIGUSR1')
    await guarded.hear('alone')
    expect(guarded.stdout).not.to.contain('second')
  })

  it('gives the whole group its signal when lease exec was killed, also what is stopped, and leaves', async () => {
    const guarded = new Guarded()
    const job = `trap 'echo got; exit 0' USR2; sleep 1000 & echo "beside $!"; echo "pid $$"; kill -STOP $$; wait`
    await guarded.run(job, DAY_MS, { signal: 'SIGUSR2' })
    const beside = Number(await guarded.line(/beside (\d+)/))
    await guarded.line(/pid (\d+)/)
    guarded.link.close()
    await guarded.line(/got/)
    await ended(beside)
    await until('the guardian has left', () => guarded.isOver)
  })

  it('kills what ignores its signal after the grace, when lease exec was killed', async () => {
    const guarded = new Guarded()
    const pid = (await guarded.run(STUBBORN, DAY_MS, { graceMs: 200 })) ?? expect.fail('late')
    await guarded.line(/pid/)
    guarded.link.close()
    await ended(pid)
  })

  it('kills it within the window, however long the grace is, when lease exec was killed', async () => {
    for (let remainingMs = 1_000; ; remainingMs *= 2) {
      const guarded = new Guarded()
      guarded.link.send({ kind: 'stopping' }) // so that only KILL is left
      const pid = await guarded.run(FOREVER, remainingMs)
      if (pid === undefined) continue // it was too slow
      guarded.link.close()
      return void (await ended(pid))
    }
  })

  it('kills what the command has left behind, and does not say before that nobody is left', async () => {
    const guarded = new Guarded()
    const job = `(trap '' TERM; echo "beside"; exec sleep 1000) & echo "is $!"; wait $!`
    const pid = (await guarded.run(`trap 'exit 3' USR2; ${job}`, DAY_MS, { graceMs: 200 })) ?? expect.fail('late')
    const beside = Number(await guarded.line(/is (\d+)/))
    await guarded.line(/beside/)
    process.kill(pid, 'SIGUSR2')
    expect(await guarded.hear('exited')).to.include({ code: 3 })
    expect(await guarded.hear('leftovers')).to.include({ count: 1 })
    await ended(beside)
  })
})
