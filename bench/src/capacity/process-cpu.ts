/** The CPU time that a server has taken, as Linux counts it: its own threads, its descendants, and those of them that have ended. */
import { readdirSync, readFileSync } from 'node:fs'

/** Linux counts in hundredths of a second here, whatever its timer does. */
const MICROS_PER_TICK = 10_000

/** utime, stime, cutime and cstime: their places after the name of the program, which may have blanks. */
const TIMES = [11, 12, 13, 14]

/** @throws when there is no such process, or no `/proc` */
export function cpuMicrosOf(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  let micros = TIMES.reduce((sum, place) => sum + Number(fields[place]), 0) * MICROS_PER_TICK
  for (const child of childrenOf(pid)) {
    try {
      micros += cpuMicrosOf(child)
    } catch {
      // It has ended since: then its parent has its time.
    }
  }
  return micros
}

/** Memory of the children of a process that they do not share, and their part of what they share, in bytes. */
export function childrenPssBytes(pid: number): number {
  let kilobytes = 0
  for (const child of childrenOf(pid)) {
    try {
      kilobytes += Number(/^Pss: +(\d+)/m.exec(readFileSync(`/proc/${child}/smaps_rollup`, 'utf8'))?.[1] ?? 0)
    } catch {
      // it has ended since
    }
  }
  return kilobytes * 1024
}

/** Memory of a process that no file stands for, in bytes. */
export function anonymousBytes(pid: number): number {
  return Number(/^RssAnon:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0) * 1024
}

function childrenOf(pid: number): readonly number[] {
  return readdirSync(`/proc/${pid}/task`).flatMap((thread) =>
    readFileSync(`/proc/${pid}/task/${thread}/children`, 'utf8')
      .split(' ')
      .filter((word) => word.trim() !== '')
      .map(Number),
  )
}
