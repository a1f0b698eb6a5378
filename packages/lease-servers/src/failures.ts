/**
 * Errors for people: a message of one line that says what to do; the whole output is the cause.
 */
import { statfsSync } from 'node:fs'
import { dirname } from 'node:path'

const LONGEST = 300
const telling =
  /fatal|panic|error|denied|no space|in use|not (defined|found)|could not|cannot|can't|unable|bad |^>>>|^E:/i
const full = /no space left|ENOSPC|EDQUOT|quota exceeded/i
/** A server needs more than that to say what is wrong. */
const LEAST_BYTES = 1 << 20

/** An error of one line, with the whole of what a program has written as its cause. */
export function failure(message: string, output: string, folder?: string): Error {
  const remedy = folder !== undefined && (full.test(output) || isFull(folder)) ? `: ${roomIn(dirname(folder))}` : ''
  return new Error(`${message}: ${reasonIn(output)}${remedy}`, { cause: new Error(excerpt(output)) })
}

/** The lines of an output that tell why a program failed, as one. */
export function reasonIn(output: string): string {
  const lines = output.split('\n').flatMap((line) => line.trim() || [])
  const [last = 'it says nothing'] = lines.slice(-1)
  const reasons = lines.filter((line) => telling.test(line))
  const text = (reasons.length === 0 ? [last] : reasons).join('; ')
  return text.length <= LONGEST ? text : `${text.slice(0, LONGEST)}…`
}

/** The first and the last lines of a log: the reason is among them. */
export function excerpt(log: string): string {
  const lines = log.trimEnd().split('\n')
  return (lines.length <= 20 ? lines : [...lines.slice(0, 5), '…', ...lines.slice(-15)]).join('\n')
}

/** Runs what writes to the temporary folder `parent`. @throws with a hint when the file system does not let it */
export function inFolder<T>(parent: string, write: () => T): T {
  try {
    return write()
  } catch (cause) {
    const code = cause instanceof Error && 'code' in cause ? String(cause.code) : ''
    const remedy = full.test(code) ? roomIn(parent) : 'set TMPDIR to a folder that exists and that you may write to'
    throw new Error(`no server can be started in ${parent} (${code || String(cause)}): ${remedy}`, { cause })
  }
}

function roomIn(parent: string): string {
  return `free some space in ${parent}, or set TMPDIR to a folder with more`
}

function isFull(folder: string): boolean {
  try {
    const { bavail, bsize } = statfsSync(folder)
    return bavail * bsize < LEAST_BYTES
  } catch {
    return false
  }
}
