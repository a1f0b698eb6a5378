/** A job that notices another one of its kind: says `overlap` then. Otherwise `running` and its process id, until somebody ends it. */
import { readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { isRunning } from '#src/process-group.ts'

const folder = process.argv[2] as string
writeFileSync(join(folder, String(process.pid)), '') // before it looks: of two at once, one at least sees the other
const others = readdirSync(folder).filter((name) => name !== String(process.pid))
const alive = await Promise.all(others.map((pid) => isRunning(Number(pid))))
console.log(alive.includes(true) ? 'overlap' : `running ${process.pid} guardian ${process.ppid}`)
setInterval(() => {}, 1_000)
