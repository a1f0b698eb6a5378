import { execFile } from 'node:child_process'
import { cp, mkdtemp, readFile, rm, symlink } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { promisify } from 'node:util'
import { CreateTableCommand, DynamoDBClient } from '@aws-sdk/client-dynamodb'
import { DynamoDBDocumentClient } from '@aws-sdk/lib-dynamodb'
import { expect } from 'chai'
import { ErrNotHeld, type Token } from 'lease-core'
import { createTable, dynamodbClient } from 'lease-dynamodb'
import { dynamodbTarget, isMatrix, npmFolder } from 'lease-servers'
import { failure, openRivals, type Rivals } from './rivals.ts'

const target = dynamodbTarget()
const examples = new URL('./', import.meta.url.replace('/.test-js/', '/'))
const sources = fileURLToPath(new URL('electrodb', examples))

interface Account {
  readonly table: string
  readonly id: string
}

/** What the example exports. */
interface Accounts {
  setBalance(documents: DynamoDBDocumentClient, token: Token, account: Account, balance: number): Promise<void>
  balanceOf(documents: DynamoDBDocumentClient, account: Account): Promise<number | undefined>
}

/** The example, built as its package.json says, beside the packages of this workspace. */
async function build(): Promise<AsyncDisposable & { readonly accounts: Accounts }> {
  const home = await npmFolder({
    name: 'electrodb',
    manifest: await readFile(join(sources, 'package.json'), 'utf8'),
    cache: fileURLToPath(new URL('node_modules/.cache/', examples)),
    async prepare(folder) {
      for (const name of ['lease-core', 'lease-dynamodb']) {
        await symlink(fileURLToPath(new URL(`../../packages/${name}`, examples)), join(folder, 'node_modules', name))
      }
    },
  })
  const project = await mkdtemp(join(home, 'project-'))
  await cp(sources, project, { recursive: true })
  await promisify(execFile)('npm', ['run', 'build'], { cwd: project })
  return {
    accounts: (await import(pathToFileURL(join(project, 'dist/accounts.js')).href)) as Accounts,
    [Symbol.asyncDispose]: () => rm(project, { recursive: true, force: true }),
  }
}

describe('example: a guarded write of an ElectroDB entity', () => {
  if (!isMatrix()) {
    it.skip('the holder writes (skipped: in test:matrix, for ElectroDB is not in the workspace)', () => {})
    return
  }
  const account: Account = { table: `electrodb-${process.pid}`, id: '42' }
  let built: Awaited<ReturnType<typeof build>>
  let dynamodb: DynamoDBClient
  let documents: DynamoDBDocumentClient
  let rivals: Rivals
  before(async function () {
    this.timeout(600_000) // the first time it is installed
    process.env['AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED'] = 'true'
    built = await build()
    const credentials = { accessKeyId: 'test', secretAccessKey: 'test' }
    dynamodb = new DynamoDBClient({ endpoint: target.endpoint, region: 'us-east-1', credentials })
    documents = DynamoDBDocumentClient.from(dynamodb)
    const leases = `electrodb-leases-${process.pid}`
    await createTable({ client: dynamodb, table: leases })
    await dynamodb.send(
      new CreateTableCommand({
        TableName: account.table,
        AttributeDefinitions: [
          { AttributeName: 'pk', AttributeType: 'S' },
          { AttributeName: 'sk', AttributeType: 'S' },
        ],
        KeySchema: [
          { AttributeName: 'pk', KeyType: 'HASH' },
          { AttributeName: 'sk', KeyType: 'RANGE' },
        ],
        BillingMode: 'PAY_PER_REQUEST',
      }),
    )
    rivals = openRivals(() => dynamodbClient({ client: dynamodb, table: leases, namespace: 'bank' }))
  })
  after(async () => {
    await rivals?.[Symbol.asyncDispose]()
    dynamodb?.destroy()
    await built?.[Symbol.asyncDispose]()
  })

  it('the holder writes, and who lost the lease writes nothing', async () => {
    const { accounts } = built
    const token = await rivals.hold()
    await accounts.setBalance(documents, token, account, 80)
    await rivals.takeOver(token)
    expect(await failure(accounts.setBalance(documents, token, account, 70))).to.be.instanceOf(ErrNotHeld)
    expect(await accounts.balanceOf(documents, account)).to.equal(80)
  })
})
