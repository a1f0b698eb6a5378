/** Clients in a process of their own: every call becomes a message, and its answer another one. */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import type { Clients } from './clients.ts'
import type { Job } from './run.ts'

/** What the process is started with. */
export type ClientJob = Pick<Job, 'substrate' | 'url' | 'adapter'>

/** To the process. */
export interface ClientCall {
  readonly id: number
  readonly method: keyof Clients
  readonly args: readonly unknown[]
}

/** From it; that of its start has the id 0. */
export type ClientAnswer = { readonly id: number } & ({ readonly result: unknown } | { readonly error: string })

/** They end with this process, if not before. */
export interface ClientProcess extends Clients {
  /** Ends the process, whatever it is doing. Idempotent. */
  end(): Promise<void>
}

interface Waiting {
  readonly resolve: (result: unknown) => void
  readonly reject: (error: Error) => void
}

/** What is kept of what it says on standard error, for when it ends unasked. */
const LAST_WORDS = 2_000

/** @throws Error what went wrong there; calls reject in the same way once it has ended */
export async function launchClients(job: ClientJob): Promise<ClientProcess> {
  const program = fileURLToPath(import.meta.url).replace(/client-process(\.[jt]s)$/, 'client-main$1')
  const child = fork(program, [JSON.stringify(job)], { stdio: ['ignore', 'ignore', 'pipe', 'ipc'] })
  const waiting = new Map<number, Waiting>()
  let lastWords = ''
  let ended: Error | undefined
  let ids = 0
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    lastWords = (lastWords + text).slice(-LAST_WORDS)
  })
  child.on('message', (answer: ClientAnswer) => {
    const { resolve, reject } = waiting.get(answer.id) ?? {}
    waiting.delete(answer.id)
    if ('error' in answer) reject?.(new Error(answer.error))
    else resolve?.(answer.result)
  })
  child.once('close', () => {
    const error = new Error(`the clients' process ended${lastWords === '' ? '' : `\n${lastWords.trim()}`}`)
    ended = error
    for (const { reject } of waiting.values()) reject(error)
    waiting.clear()
  })
  const answerTo = (id: number): Promise<unknown> =>
    new Promise((resolve, reject) => {
      if (ended !== undefined) reject(ended)
      else waiting.set(id, { resolve, reject })
    })
  const call = (method: keyof Clients, ...args: readonly unknown[]): Promise<unknown> => {
    const id = ++ids
    const answer = answerTo(id)
    if (ended === undefined) child.send({ id, method, args } satisfies ClientCall, () => {}) // `close` knows
    return answer
  }
  const end = async (): Promise<void> => {
    if (child.exitCode !== null || child.signalCode !== null) return
    const exit = once(child, 'exit')
    child.kill('SIGKILL')
    await exit
  }
  try {
    await answerTo(0)
  } catch (error) {
    await end()
    throw error
  }
  return {
    open: (seats, listening) => call('open', seats, listening) as Promise<void>,
    hold: (client, lease) => call('hold', client, lease) as Promise<number>,
    release: (client) => call('release', client) as Promise<number>,
    keep: (lease, durationMs) => call('keep', lease, durationMs) as Promise<void>,
    work: (callers, seconds) => call('work', callers, seconds) as Promise<number>,
    report: () => call('report') as ReturnType<Clients['report']>,
    close: () => call('close') as Promise<void>,
    end,
  }
}
