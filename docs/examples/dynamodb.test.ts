import { CreateTableCommand, DynamoDBClient, GetItemCommand } from '@aws-sdk/client-dynamodb'
import { DynamoDBDocumentClient } from '@aws-sdk/lib-dynamodb'
import { expect } from 'chai'
import { ErrNotHeld, Manager, type Client } from 'lease-core'
import { createTable, dynamodbClient } from 'lease-dynamodb'
import { dynamodbTarget } from 'lease-servers'
import { setBalance, withdraw } from './dynamodb-guard.ts'
import { dynamodbQuickStart } from './dynamodb-quick-start.ts'
import { begin, finish } from './lambda.ts'
import { failure, openRivals, type Rivals } from './rivals.ts'
import { onDynamodb, sameProgram } from './same-program.ts'
import { printed } from './same-program.printed.ts'

const target = dynamodbTarget()

describe(`examples on ${target.name}`, () => {
  const table = `examples-${process.pid}`
  const accounts = { TableName: `accounts-${process.pid}`, id: '42' }
  let dynamodb: DynamoDBClient
  let documents: DynamoDBDocumentClient
  let rivals: Rivals
  const newClient = (namespace: string): Client => dynamodbClient({ client: dynamodb, table, namespace })
  before(async () => {
    process.env['AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED'] = 'true'
    const credentials = { accessKeyId: 'test', secretAccessKey: 'test' }
    dynamodb = new DynamoDBClient({ endpoint: target.endpoint, region: 'us-east-1', credentials })
    documents = DynamoDBDocumentClient.from(dynamodb)
    await createTable({ client: dynamodb, table })
    await dynamodb.send(
      new CreateTableCommand({
        TableName: accounts.TableName,
        AttributeDefinitions: [{ AttributeName: 'id', AttributeType: 'S' }],
        KeySchema: [{ AttributeName: 'id', KeyType: 'HASH' }],
        BillingMode: 'PAY_PER_REQUEST',
      }),
    )
    rivals = openRivals(() => newClient('bank'))
  })
  after(async () => {
    await rivals[Symbol.asyncDispose]()
    dynamodb.destroy()
  })

  async function balance(): Promise<number> {
    const { TableName, id } = accounts
    const { Item } = await dynamodb.send(new GetItemCommand({ TableName, Key: { id: { S: id } } }))
    return Number(Item?.['balance']?.N)
  }

  it('quick start: the holder writes', async () => {
    await dynamodbQuickStart(dynamodb, table, accounts.TableName)
    expect(await balance()).to.equal(90)
  })

  it('a guard: the holder writes, and who lost the lease writes nothing', async () => {
    const token = await rivals.hold()
    await setBalance(documents, token, accounts, 80)
    await rivals.takeOver(token)
    await token.check() // worker-1 still relies on its grant: only the trapdoor asks the store
    expect(await failure(setBalance(documents, token, accounts, 70))).to.be.instanceOf(ErrNotHeld)
    expect(await balance()).to.equal(80)
  })

  it('two leases, and a condition of its own: tells "not held" from "not enough"', async () => {
    const tokens = [await rivals.hold(), await rivals.hold()] as const
    await setBalance(documents, tokens[0], accounts, 50)
    expect(await withdraw(documents, tokens, accounts, 40)).to.equal(true)
    expect(await withdraw(documents, tokens, accounts, 40)).to.equal(false)
    await rivals.takeOver(tokens[1])
    expect(await failure(withdraw(documents, tokens, accounts, 5))).to.be.instanceOf(ErrNotHeld)
    expect(await balance()).to.equal(10)
  })

  it('the same program prints the same', async () => {
    const lines: string[] = []
    await sameProgram(
      () => onDynamodb(dynamodb, table, 'same-program'),
      (line) => lines.push(line),
    )
    expect(lines).to.deep.equal(printed)
  })

  it('one term over two invocations: the second continues it, and nobody else gets it in between', async () => {
    const baton = await begin(newClient('lambda'), 'order-7', 'run-1')
    expect(await begin(newClient('lambda'), 'order-7', 'run-2')).to.equal(undefined)
    let isHeld = false
    const passed = JSON.parse(JSON.stringify(baton)) as NonNullable<typeof baton>
    await finish(newClient('lambda'), passed, async (signal) => void (isHeld = !signal.aborted))
    expect(isHeld).to.equal(true)
    expect(await begin(newClient('lambda'), 'order-7', 'run-2')).to.have.property('holder', 'run-2')
  })

  it('a term that ended between two invocations is not continued', async () => {
    const baton = await begin(newClient('lambda'), 'order-8', 'run-1')
    const client = newClient('lambda')
    const operator = new Manager({ client })
    await operator.revoke('order-8')
    let isCalled = false
    const error = await failure(finish(newClient('lambda'), baton!, async () => void (isCalled = true)))
    expect(String(error)).to.match(/the term of order-8 is over: begin again/)
    expect(isCalled).to.equal(false)
    await operator.stop()
    await client.close()
  })
})
