/**
 * One script on the caller's connection, and what its failures mean.
 */
import type { RedisScripting } from './driver.ts'
import type { Script } from './script.ts'

/**
 * Runs the script by its digest; a server that does not know it (new, restarted, after SCRIPT FLUSH) is sent the text.
 * The caller's connection learns no command.
 *
 * @throws what the driver throws
 */
export function evaluate(
  redis: RedisScripting,
  { text, sha }: Script,
  keys: readonly string[],
  args: readonly (string | Buffer | number)[],
): Promise<unknown> {
  return redis.evalsha(sha, keys.length, ...keys, ...args).catch((error: unknown) => {
    if (wordOf(error) !== 'NOSCRIPT') throw error
    return redis.eval(text, keys.length, ...keys, ...args)
  })
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
  LOADING: 'the server is starting up and loads its data',
  MASTERDOWN: 'the server is a replica that has lost its master: connect to the master',
  NOREPLICAS: 'the server has fewer replicas in reach than it wants (min-replicas-to-write)',
  MISCONF: 'the server cannot save to its disk and therefore refuses to write',
  CLUSTERDOWN: 'the Cluster is down: not every slot has a master in reach',
  TRYAGAIN: 'the slot of the leases is being moved to another node',
  MOVED: 'the server is a node of a Cluster: pass a Cluster of ioredis instead of a single connection',
  NOSCRIPT: 'the server forgot the script at the moment it was sent',
  BUSY: 'the server is busy with a script that does not end (SCRIPT KILL)',
  ECONNREFUSED: 'nothing listens at the address of the server: is it running?',
  ENOTFOUND: 'the host name of the server cannot be resolved',
}

/** The same for errors that the driver makes itself, by what they say. */
const driverAdvice: readonly (readonly [RegExp, string])[] = [
  [/^Connection is closed/, 'the connection is closed, and does not reconnect by itself'],
  [/^Stream isn't writeable/, 'the connection is not established, and its offline queue is turned off'],
  [/^Reached the max retries per request/, 'the server cannot be reached: is it running, at this address?'],
  [
    /^(Failed to refresh slots cache|None of startup nodes)/,
    'no node of the Cluster can be reached: are they running, at these addresses?',
  ],
  [/^All sentinels are unreachable/, 'no Sentinel can be reached, or none knows a master of this name'],
  [/can't run this command|has no permissions/, advice['NOPERM'] ?? ''],
  [/is not a lease$|is not a number$|is not an integer/, advice['WRONGTYPE'] ?? ''],
]

/** The error with advice in front, or the error itself where there is none to give; `cause` is always the original. */
export function explained(error: unknown): unknown {
  if (!(error instanceof Error)) return error
  const word = wordOf(error)
  const words =
    (word === undefined ? undefined : advice[word]) ??
    driverAdvice.find(([pattern]) => pattern.test(error.message))?.[1]
  if (words === undefined) return error
  return new Error(`${words} (${reasons(error)})`, { cause: error })
}

/** ioredis keeps below what was wrong with the last node it tried. */
function reasons(error: Error): string {
  const { lastNodeError } = error as { lastNodeError?: unknown }
  const own = error.message === '' ? (wordOf(error) ?? error.name) : error.message
  return lastNodeError instanceof Error ? `${own} ${lastNodeError.message}` : own
}
