/** The process of one arm: `arm-process.ts` starts it, and it does what that says until that is gone. */
import type { Answer, Order } from './arm-process.ts'
import type { Job } from './run.ts'
import { substrateNamed } from './substrates/index.ts'
import { workloads } from './workloads/index.ts'

const job = JSON.parse(process.argv[2] ?? '{}') as Job
process.once('disconnect', () => process.exit())

function tell(answer: Answer): void {
  process.send?.(answer)
}

function tellFailure(error: unknown): void {
  tell({ error: error instanceof Error ? (error.stack ?? error.message) : String(error) })
}

try {
  const substrate = await substrateNamed(job.substrate)
  const adapter = substrate.adapters.find(({ name }) => name === job.adapter)
  const workload = workloads.find(({ name }) => name === job.workload)
  if (adapter === undefined || workload === undefined) throw new Error('there is no such adapter or workload')
  const ground = await substrate.reach(job.url)
  const trial = await workload.start(adapter, ground, job.task)
  process.on('message', (order: Order) => {
    if (order === 'close') {
      void trial
        .close()
        .then(() => ground.close())
        .catch(tellFailure)
        .finally(() => process.exit()) // whatever a library has left behind
    } else trial.measure(order.measure).then((sample) => tell({ sample }), tellFailure)
  })
  tell({ ready: true })
} catch (error) {
  tellFailure(error)
  process.disconnect()
}
