/**
 * Faults of a server that answers: it refuses, fails, answers what was so a while ago, or carries a request out twice. Only of protocols whose
 * requests have a `question`.
 */
import type { Socket } from 'node:net'
import type { Request } from './protocol.ts'

/** Each concerns the requests whose question matches a regular expression (its source), as far as it says so. */
export type AnswerFault =
  /** A share (0 to 1) of the requests, by chance, gets this reply, and the server does not have it, or has carried it out. */
  | {
      readonly kind: 'answer-requests'
      readonly when: 'before' | 'after'
      readonly share: number
      readonly matching?: string
      readonly reply: string
    }
  /** The reply to such a request is given to all that ask the same for so long: they learn what was so. */
  | { readonly kind: 'remember-replies'; readonly forMs: number; readonly matching?: string }
  /** A share of the requests reaches the server once more, up to `maxMs` later and on another connection. */
  | { readonly kind: 'repeat-requests'; readonly share: number; readonly maxMs: number; readonly matching?: string }

const KINDS: readonly string[] = [
  'answer-requests',
  'remember-replies',
  'repeat-requests',
] satisfies AnswerFault['kind'][]

/** What goes to the client instead of the server's reply; `before`: the server does not get the request. */
export interface Answer {
  readonly when: 'before' | 'after'
  readonly reply: Buffer
}

interface Fault {
  readonly kind: string
}

export function isOfAnswers(fault: Fault): fault is AnswerFault {
  return KINDS.includes(fault.kind)
}

/** What a proxy answers by itself. */
export class Answers {
  readonly #connect: () => Socket
  readonly #remembered = new Map<Fault, Map<string, { readonly reply: Buffer; readonly atMs: number }>>()
  readonly #repeats = new Set<NodeJS.Timeout>()

  /** @param connect to the server */
  constructor(connect: () => Socket) {
    this.#connect = connect
  }

  /** What the client gets instead of the server's reply, if anything. */
  instead(request: Request, faults: readonly Fault[]): Answer | undefined {
    for (const fault of concerned(request, faults)) {
      if (fault.kind === 'remember-replies') {
        const found = this.#remembered.get(fault)?.get(request.question ?? '')
        if (found !== undefined && performance.now() - found.atMs < fault.forMs) {
          return { when: 'before', reply: found.reply }
        }
      } else if (Math.random() < fault.share) {
        if (fault.kind === 'answer-requests') return { when: fault.when, reply: Buffer.from(fault.reply) }
        this.#repeat(request, Math.random() * fault.maxMs)
      }
    }
    return undefined
  }

  /** The server has replied. */
  note(request: Request, reply: Buffer, faults: readonly Fault[]): void {
    for (const fault of concerned(request, faults)) {
      if (fault.kind !== 'remember-replies') continue
      const own = this.#remembered.get(fault) ?? new Map()
      this.#remembered.set(fault, own.set(request.question ?? '', { reply, atMs: performance.now() }))
    }
  }

  /** The fault is over. What was to be repeated still is. */
  forget(fault: Fault): void {
    this.#remembered.delete(fault)
  }

  close(): void {
    for (const timer of this.#repeats) clearTimeout(timer)
  }

  #repeat({ payload }: Request, afterMs: number): void {
    const timer = setTimeout(() => {
      this.#repeats.delete(timer)
      const server = this.#connect()
      const end = (): void => void server.destroy()
      server.on('error', end).once('data', end) // nobody waits for the reply
      server.write(payload)
    }, afterMs)
    this.#repeats.add(timer)
  }
}

function* concerned({ question }: Request, faults: readonly Fault[]): Generator<AnswerFault> {
  if (question === undefined) return
  for (const fault of faults) {
    if (isOfAnswers(fault) && (fault.matching === undefined || new RegExp(fault.matching).test(question))) yield fault
  }
}
