/**
 * The process of an arm that is compared with another checkout: runs the `arm-main` whose path it is given, of whichever
 * checkout, and adds what its samples lack: commands per operation. So both sides are counted in the same way, even where
 * the other checkout's workloads do not report commands.
 */
import { extname } from 'node:path'
import { pathToFileURL } from 'node:url'
import type { Ground, Sample } from './bench.ts'
import type { Job } from './run.ts'
import type * as Substrates from './substrates/index.ts'
import type * as Workloads from './workloads/index.ts'

const [, , text = '{}', armMain = ''] = process.argv
const job = JSON.parse(text) as Job
const beside = (folder: string): string => new URL(`${folder}/index${extname(armMain)}`, pathToFileURL(armMain)).href
const { substrateNamed } = (await import(beside('substrates'))) as typeof Substrates
const { workloads } = (await import(beside('workloads'))) as typeof Workloads

let ground: Ground | undefined
const substrate = await substrateNamed(job.substrate)
const reach = substrate.reach.bind(substrate)
Object.assign(substrate, { reach: async (url: string) => (ground = await reach(url)) })

// A sample says CPU per operation, and took the CPU from this call: the quotient is the number of operations.
let cpuMicros = Number.NaN
const cpuUsage = process.cpuUsage.bind(process)
process.cpuUsage = (previous) => {
  const used = cpuUsage(previous)
  if (previous !== undefined) cpuMicros = used.user + used.system
  return used
}

for (const workload of workloads.filter(({ name }) => name === job.workload)) {
  const start = workload.start.bind(workload)
  Object.assign(workload, {
    start: async (...how: Parameters<typeof start>) => {
      const trial = await start(...how)
      const measure = async (seconds: number): Promise<Sample> => {
        const before = await ground?.commands()
        const sample = await trial.measure(seconds)
        const after = await ground?.commands()
        return before === undefined || after === undefined ? sample : withCommands(sample, after - before)
      }
      return { measure, close: () => trial.close() }
    },
  })
}

function withCommands(sample: Sample, commands: number): Sample {
  const perOperation = Object.entries(sample).find(([name]) => name.startsWith('CPU µs/'))
  if (perOperation === undefined || Object.keys(sample).some((name) => name.startsWith('commands/'))) return sample
  const [name, micros] = perOperation
  const operations = Math.round(cpuMicros / micros)
  return operations > 0 ? { ...sample, [name.replace('CPU µs/', 'commands/')]: commands / operations } : sample
}

await import(pathToFileURL(armMain).href)
