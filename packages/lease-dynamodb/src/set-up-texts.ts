/** The set-up as text, for those who keep it in files. */
import { OptionReader } from 'lease-core/adapter'
import { EXPIRES, HASH, RANGE, SCHEMA } from './layout.ts'
import { brokenTableRule } from './options.ts'

/** A table by its name. */
export interface TableName {
  readonly table: string
}

/** What the policy is about. */
export interface PolicyOptions extends TableName {
  /** @default every region */
  readonly region?: string | undefined
  /** @default every account; a policy of an account reaches only its own tables */
  readonly account?: string | undefined
}

/** Returns the table as a template of CloudFormation, as JSON. @throws ErrNotValid */
export function cloudFormation(options: TableName): string {
  const { table } = checked(options, ['table'])
  const template = {
    AWSTemplateFormatVersion: '2010-09-09',
    Resources: {
      LeaseTable: {
        Type: 'AWS::DynamoDB::Table',
        DeletionPolicy: 'Retain',
        Properties: {
          TableName: table,
          BillingMode: 'PAY_PER_REQUEST',
          ...SCHEMA,
          TimeToLiveSpecification: { AttributeName: EXPIRES, Enabled: true },
        },
      },
    },
  }
  return JSON.stringify(template, undefined, 2)
}

/** Returns the table as a resource of Terraform. @throws ErrNotValid */
export function terraform(options: TableName): string {
  const { table } = checked(options, ['table'])
  return `resource "aws_dynamodb_table" "leases" {
  name         = "${table}"
  billing_mode = "PAY_PER_REQUEST"
  hash_key     = "${HASH}"
  range_key    = "${RANGE}"

  attribute {
    name = "${HASH}"
    type = "S"
  }

  attribute {
    name = "${RANGE}"
    type = "S"
  }

  ttl {
    attribute_name = "${EXPIRES}"
    enabled        = true
  }
}
`
}

/** What the library calls. The checks of a guard need `dynamodb:ConditionCheckItem`; the transaction that they are in needs what it writes. */
const ACTIONS = [
  'dynamodb:GetItem',
  'dynamodb:BatchGetItem',
  'dynamodb:Query',
  'dynamodb:UpdateItem',
  'dynamodb:DeleteItem',
  'dynamodb:ConditionCheckItem',
  'dynamodb:DescribeTable',
]

/** Returns the least rights of a process that uses leases, as an IAM policy. To create the table needs more. @throws ErrNotValid */
export function iamPolicy(options: PolicyOptions): string {
  const { table, region = '*', account = '*' } = checked(options, ['table', 'region', 'account'])
  const resource = table.startsWith('arn:') ? table : `arn:aws:dynamodb:${region}:${account}:table/${table}`
  const statement = { Sid: 'Leases', Effect: 'Allow', Action: ACTIONS, Resource: resource }
  return JSON.stringify({ Version: '2012-10-17', Statement: [statement] }, undefined, 2)
}

function checked<O extends PolicyOptions>(given: O, known: readonly string[]): O {
  const options = new OptionReader(given, known, { needed: 'table', example: "{ table: 'leases' }" })
  const { table, region, account } = options.read
  options.fault('table', brokenTableRule(table))
  options.must('region', region === undefined || isWord(region), "must be a region, such as 'eu-west-1', or '*'")
  options.must('account', account === undefined || isWord(account), "must be the number of an account, or '*'")
  options.finish()
  return options.read
}

function isWord(value: unknown): boolean {
  return typeof value === 'string' && /^[a-z\d-]+$|^\*$/.test(value)
}
