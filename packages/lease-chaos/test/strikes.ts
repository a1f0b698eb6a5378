/** Strikes a ground with one nemesis after another, and sees by plain drivers what happens. */
import { readFileSync } from 'node:fs'
import { etcdClient } from 'lease-etcd'
import { type Address, postJson, redisCommand, redisCommands, until } from 'lease-servers'
import { Etcd3 } from 'etcd3'
import { Redis } from 'ioredis'
import { Client } from 'pg'
import { nowMs, openClient, Workers, type Worker } from 'lease-chaos'
