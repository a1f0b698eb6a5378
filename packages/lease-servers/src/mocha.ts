import { dynamodbTarget } from './dynamodb-targets.ts'
import { etcdTargets } from './etcd-targets.ts'
import { pgbouncerTarget, postgresTargets } from './postgres-targets.ts'
import { redisTargets } from './redis-targets.ts'
import { askedServers, provideTargets, Servers } from './targets.ts'

const servers = new Servers()

/** Starts the servers that the loaded test files asked for; a server that cannot be had fails the run. */
export async function mochaGlobalSetup(): Promise<void> {
  // With --parallel the test files are loaded in processes of their own, after this: so all are started.
  if (process.argv.includes('--parallel'))
    for (const ask of [redisTargets, postgresTargets, pgbouncerTarget, etcdTargets, dynamodbTarget]) ask()
  try {
    provideTargets(await servers.targets(askedServers()))
  } catch (error) {
    await servers.stop()
    throw error
  }
}

/** Stops them. After Ctrl-C mocha does not call this; the servers then end with the process. */
export async function mochaGlobalTeardown(): Promise<void> {
  await servers.stop()
}
