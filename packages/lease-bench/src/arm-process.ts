/** A process of its own for each arm: no library shares its heap, its event loop or its compiled code with another. */
import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import type { Sample, Trial } from './bench.ts'
import type { Job } from './run.ts'

/** To the process of an arm. */
export type Order = { readonly measure: number } | 'close'

/** From it: the answer to its start, or to the last order. */
export type Answer = { readonly ready: true } | { readonly sample: Sample } | { readonly error: string }

/** What is kept of what it says on standard error, for when it ends unasked. */
const LAST_WORDS = 2_000

/** So long it may take to start, or to measure. */
const ANSWER_MS = 300_000

/** So long it may take to close; then it is killed. */
const CLOSING_MS = 15_000

/** The program for an arm of this checkout, as it is here: `.ts` from source, `.js` compiled. */
export const armMain: string = besideThis('arm-main')

/** Starts the job as `launchProcess` does, in a program that also counts commands and runs that `arm-main`. */
export function launchCounted(job: Job, armMain: string): Promise<Trial> {
  return launchProcess(job, besideThis('counted-arm'), [armMain])
}

/**
 * Starts the job in a process of its own.
 *
 * @param words further arguments of the program
 * @throws Error naming adapter and workload: it reported a failure, or its process ended
 */
export async function launchProcess(
  job: Job,
  program: string = armMain,
  words: readonly string[] = [],
): Promise<Trial> {
  const child = fork(program, [JSON.stringify(job), ...words], { stdio: ['ignore', 'ignore', 'pipe', 'ipc'] })
  const ask = asking(child, `${job.adapter} (${job.workload} on ${job.substrate})`)
  const close = async (): Promise<void> => {
    if (child.exitCode !== null || child.signalCode !== null) return
    const ended = once(child, 'exit')
    const limit = setTimeout(() => child.kill('SIGKILL'), CLOSING_MS)
    child.send('close' satisfies Order, () => {}) // where it is gone already, `ended` knows
    await ended
    clearTimeout(limit)
  }
  try {
    await ask()
  } catch (error) {
    await close()
    throw error
  }
  return {
    async measure(seconds) {
      const answer = await ask({ measure: seconds })
      if (!('sample' in answer)) throw new Error(`${job.adapter} measured nothing`)
      return answer.sample
    },
    close,
  }
}

/** One question at a time; without one it waits for the answer to the start. */
function asking(child: ChildProcess, who: string): (order?: Order) => Promise<Answer> {
  let lastWords = ''
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    lastWords = (lastWords + text).slice(-LAST_WORDS)
  })
  return (order) =>
    new Promise((resolve, reject) => {
      const over = (): void => {
        clearTimeout(limit)
        child.off('message', answered).off('close', ended)
      }
      const answered = (answer: Answer): void => {
        over()
        if ('error' in answer) reject(new Error(`${who}: ${answer.error}`))
        else resolve(answer)
      }
      const ended = (code: number | null, signal: NodeJS.Signals | null): void => {
        over()
        const how = signal === null ? `with code ${code}` : `by ${signal}`
        reject(new Error(`${who}: its process ended ${how}${lastWords === '' ? '' : `\n${lastWords.trim()}`}`))
      }
      const limit = setTimeout(() => {
        over()
        reject(new Error(`${who}: no answer within ${ANSWER_MS / 1000} s`))
      }, ANSWER_MS)
      if (child.exitCode !== null || child.signalCode !== null) return ended(child.exitCode, child.signalCode)
      child.once('message', answered).once('close', ended)
      if (order !== undefined) child.send(order, () => {}) // where it is gone already, `ended` knows
    })
}

function besideThis(name: string): string {
  return fileURLToPath(import.meta.url).replace(/arm-process(\.[jt]s)$/, `${name}$1`)
}
