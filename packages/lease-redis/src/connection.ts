/**
 * One script on the caller's connection, and what its failures mean.
 */
import { randomBytes } from 'node:crypto'
import { StoreFailure, withoutSecrets } from 'lease-core/adapter'
import type { RedisScripting } from './driver.ts'
import { isNodeRedisReply } from './node-redis.ts'
import type { Script } from './script.ts'

/** What came was not said to this request, so nobody knows what became of it. */
export class NoAnswer extends Error {
  override readonly name: string = 'NoAnswer'
  /** Whether the connection answers a request with the answer of another one, or says something else: it is out of step. */
  readonly isOutOfStep: boolean

  constructor(said: unknown) {
    const isOutOfStep = !isDeferred(said)
    const why = isOutOfStep
      ? 'the server gave no answer to this request'
      : 'somebody has opened a MULTI on this connection, so that what is sent waits for its EXEC: use another one'
    super(`${why} (it said ${saidBy(said)})`)
    this.isOutOfStep = isOutOfStep
  }
}

/** Marks of two copies of this package differ as well: they may share a connection. */
const copy = randomBytes(6).toString('base64url')
let requests = 0

/**
 * Runs the script by its digest; a server that does not know it (new, restarted, after SCRIPT FLUSH) is sent the text.
 * The caller's connection learns no command.
 *
 * A driver takes what comes for the answers in their order. After a CLIENT REPLY of somebody who shares the connection one is missing,
 * and each request gets the answer of another. So each has a mark of its own, which is in its answer.
 *
 * @throws NoAnswer; or what the driver throws
 */
export function evaluate(
  redis: RedisScripting,
  { text, sha }: Script,
  keys: readonly string[],
  args: readonly (string | Buffer | number)[],
): Promise<unknown> {
  const mark = `${copy}${++requests}`
  const all = [...keys, ...args, mark]
  const answered = (answer: unknown): unknown => answerWith(mark, answer)
  return redis.evalsha(sha, keys.length, ...all).then(answered, (thrown: unknown) => {
    const error = asTheServerSaid(thrown)
    if (wordOf(error) !== 'NOSCRIPT') throw withoutCredentials(error)
    return redis.eval(text, keys.length, ...all).then(answered, (again: unknown) => {
      throw withoutCredentials(asTheServerSaid(again))
    })
  })
}

/** @throws NoAnswer when it is the answer to another request, or to none */
function answerWith(mark: string, answer: unknown): unknown {
  if (Array.isArray(answer) && answer.length === 2 && String(answer[1]) === mark) return answer[0] as unknown
  throw new NoAnswer(answer)
}

/** A Cluster with the option `maxRedirections: 0` takes every error of a server for one redirection too many, and puts it into these words. */
function asTheServerSaid(error: unknown): unknown {
  const { message } = (error ?? {}) as { readonly message?: unknown }
  const said = /^Too many Cluster redirections\. Last error: \w*Error: (.*)$/s.exec(String(message))?.[1]
  if (said === undefined || /^(MOVED|ASK|TRYAGAIN|CLUSTERDOWN)\b/.test(said)) return error
  return Object.assign(new Error(said, { cause: error }), { name: 'ReplyError' })
}

/** Commands that bear passwords. */
const BEARS_CREDENTIALS = /^(auth|hello|acl|config|migrate|sentinel)$/i

/**
 * The same error without the arguments of commands that bear passwords. ioredis puts the command that failed into its error: after a
 * refused AUTH or HELLO all that waits is rejected with that one. Our errors have it as their cause, and causes are logged.
 */
export function withoutCredentials<E>(error: E, seen: Set<unknown> = new Set()): E {
  if (typeof error !== 'object' || error === null || seen.has(error)) return error
  seen.add(error)
  const { command, cause, lastNodeError, previousErrors, errors } = error as Readonly<Record<string, unknown>>
  const { name } = (command ?? {}) as { readonly name?: unknown }
  if (typeof name === 'string' && BEARS_CREDENTIALS.test(name)) Object.assign(error, { command: { name, args: [] } })
  for (const inner of [cause, lastNodeError, previousErrors, errors].flat()) withoutCredentials(inner, seen)
  return error
}

/**
 * The database that this connection was asked to use; undefined where it does not say, as a Cluster, which has only one. Whether
 * the server has granted it is another matter: without the right to SELECT ioredis stays in database 0 and goes on.
 */
export function databaseOf({ options, condition }: Pick<RedisScripting, 'options' | 'condition'>): number | undefined {
  const database: unknown = condition?.select ?? options?.db
  return typeof database === 'number' && Number.isInteger(database) ? database : undefined
}

/** What a connection answers on which somebody has opened a MULTI: it will do that with that EXEC, if at all. */
function isDeferred(answer: unknown): boolean {
  return String(answer) === 'QUEUED'
}

/** Whether this was said by the server, and not by the driver. */
export function isReply(error: unknown): boolean {
  return (error as { readonly name?: unknown } | null)?.name === 'ReplyError' || isNodeRedisReply(error)
}

/** What came instead of an answer, for messages. */
export function saidBy(answer: unknown): string {
  return typeof answer === 'string' ? JSON.stringify(answer.slice(0, 40)) : `a value of type ${typeof answer}`
}

/** A pipeline, or what `multi()` returns, has the methods of a connection, and sends nothing. */
export function isPipeline(value: object): boolean {
  return (value as { readonly isPipeline?: unknown }).isPipeline === true
}

/** The word with which Redis begins its errors, or the code of a system call, or undefined. */
function wordOf(error: unknown): string | undefined {
  const { code, message } = error as { code?: unknown; message?: unknown }
  if (typeof code === 'string') return code
  return typeof message === 'string' ? /^-?([A-Z]{3,})(?= |$)/.exec(message)?.[1] : undefined
}

/** Failures that say what to do about them, by the word of the server or of the system. None of these was executed. */
const advice: Readonly<Record<string, string>> = {
  READONLY: 'the server is a replica, or was made one: connect to the master (by Sentinels, or as a Cluster)',
  NOAUTH: 'the server wants a password: give one to the connection',
  WRONGPASS: 'the server refused the credentials: check user and password',
  NOPERM: `this user lacks a right: it needs EVAL, EVALSHA and what the script uses, on the keys and the channel of the leases`,
  OOM: "the server's memory is full: nothing new can be claimed before maxmemory is raised or something is removed",
  CROSSSLOT:
    'these keys are in different slots of the Cluster: keys of yours need the hash tag of the namespace, {namespace}',
  WRONGTYPE:
    'a key of the leases has been used for something else: choose another prefix or namespace, or remove that key',
  LAYOUT:
    'a newer release of lease-redis has written this namespace, in a layout that this release does not understand: upgrade lease-redis in this process, or use another namespace',
  DATABASE:
    'the database that the connection asks for (`db`) cannot be used: allow this user SELECT (ACL: +select), or ask for another one',
  LOADING: 'the server is starting up and loads its data',
  MASTERDOWN: 'the server is a replica that has lost its master: connect to the master',
  NOREPLICAS: 'the server has fewer replicas in reach than it wants (min-replicas-to-write)',
  MISCONF: 'the server cannot save to its disk and therefore refuses to write',
  CLUSTERDOWN: 'the Cluster is down: not every slot has a master in reach',
  TRYAGAIN: 'the slot of the leases is being moved to another node',
  MOVED:
    'the server is a node of a Cluster: pass a Cluster of ioredis or createCluster({ rootNodes }) of redis instead of a single connection',
  NOSCRIPT: 'the server forgot the script at the moment it was sent',
  BUSY: 'the server is busy with a script that does not end (SCRIPT KILL)',
  ECONNREFUSED: 'nothing listens at the address of the server: is it running?',
  ENOTFOUND: 'the host name of the server cannot be resolved',
}

export const NOT_OPEN = 'the client of node-redis is not connected, or was closed: await redis.connect() first'
const GLIDE_CLOSED = 'the client of valkey-glide is closed: create another one'
const LISTENS = 'this connection is in subscriber mode: pass another one'
const OLD_SERVER = 'the server lacks what leases need: is it Redis 7 or later?'

/** The same for errors that the driver makes itself, by what they say. */
const driverAdvice: readonly (readonly [RegExp, string])[] = [
  [/^The client is closed/, NOT_OPEN],
  [/the client is closed\. Please create a new client/, GLIDE_CLOSED],
  [/messages will be passed to the configured callback/, 'make the client that listens without a callback of messages'],
  [/^timed out$/, 'no answer within the requestTimeout of valkey-glide, which is 250 ms unless you set another'],
  [/subscriber mode|only \(P\|S\)SUBSCRIBE/, LISTENS],
  [/^Connection is closed/, 'the connection is closed, and does not reconnect by itself'],
  [/^Stream isn't writeable/, 'the connection is not established, and its offline queue is turned off'],
  [/^Reached the max retries per request/, 'the server cannot be reached: is it running, at this address?'],
  [
    /^(Failed to refresh slots cache|None of startup nodes)/,
    'no node of the Cluster can be reached: are they running, at these addresses?',
  ],
  [/^Too many Cluster redirections|access a non local key/, advice['TRYAGAIN'] ?? ''],
  [/^ERR syntax error|Unknown Redis command called/, OLD_SERVER],
  [/^All sentinels are unreachable/, 'no Sentinel can be reached, or none knows a master of this name'],
  [/can't run this command|has no permissions/, advice['NOPERM'] ?? ''],
  [/is not a lease$|is not a number$|is not an integer/, advice['WRONGTYPE'] ?? ''],
]

/** Those that come back until somebody changes the set-up: rights, passwords, keys, or which server it is. */
const OF_SET_UP: ReadonlySet<string | undefined> = new Set([
  ...['NOAUTH', 'WRONGPASS', 'NOPERM', 'CROSSSLOT', 'WRONGTYPE', 'LAYOUT', 'DATABASE', 'MOVED'].map(
    (word) => advice[word],
  ),
  OLD_SERVER,
  NOT_OPEN,
  GLIDE_CLOSED,
  LISTENS,
])

/** The error with advice in front, or the error itself where there is none to give; `cause` is always the original, without passwords. */
export function explained(error: Error): Error
export function explained(error: unknown): unknown
export function explained(error: unknown): unknown {
  if (!(error instanceof Error)) return error
  withoutCredentials(error)
  const word = wordOf(error)
  const words =
    ofSetUpBelow(error) ??
    (word === undefined ? undefined : advice[word]) ??
    driverAdvice.find(([pattern]) => pattern.test(error.message))?.[1]
  if (words === undefined) return error
  return new StoreFailure(withoutSecrets(`${words} (${reasons(error)})`), {
    cause: error,
    isSetUp: OF_SET_UP.has(words),
  })
}

/** Whether it comes back until somebody changes the set-up. */
export function isOfSetUp(error: unknown): boolean {
  const failure = explained(error)
  return failure instanceof StoreFailure && failure.isSetUp
}

/** What to do where a node of a Cluster, or a Sentinel, was reached and has refused who asked. ioredis says that it reached none. */
function ofSetUpBelow({ message, lastNodeError }: Error & { readonly lastNodeError?: unknown }): string | undefined {
  const below = lastNodeError ?? { message: /^All sentinels are unreachable.* Last error: (.*)$/s.exec(message)?.[1] }
  const words = advice[wordOf(below) ?? '']
  return OF_SET_UP.has(words) ? words : undefined
}

/** ioredis keeps below what was wrong with the last node it tried. */
function reasons(error: Error): string {
  const { lastNodeError } = error as { lastNodeError?: unknown }
  const own = error.message === '' ? (wordOf(error) ?? error.name) : error.message
  return lastNodeError instanceof Error ? `${own} ${lastNodeError.message}` : own
}
