/** The process of `client-process.ts`: does what that says until that is gone. */
import type { ClientAnswer, ClientCall, ClientJob } from './client-process.ts'
import { clientsHere } from './clients.ts'
import { substrateNamed } from './substrates/index.ts'

const job = JSON.parse(process.argv[2] ?? '{}') as ClientJob
process.once('disconnect', () => process.exit())

function answer(id: number, work: Promise<unknown>): void {
  const send = (answer: ClientAnswer): void => void process.send?.(answer)
  work.then(
    (result) => send({ id, result }),
    (error: unknown) => send({ id, error: error instanceof Error ? (error.stack ?? error.message) : String(error) }),
  )
}

async function start(): Promise<void> {
  const substrate = await substrateNamed(job.substrate)
  const adapter = substrate.adapters.find(({ name }) => name === job.adapter)
  if (adapter === undefined) throw new Error(`there is no adapter "${job.adapter}" on ${job.substrate}`)
  const clients = clientsHere(adapter, await substrate.reach(job.url))
  process.on('message', ({ id, method, args }: ClientCall) => {
    const call = clients[method] as (...args: readonly unknown[]) => Promise<unknown>
    answer(id, call(...args))
  })
}

answer(0, start())
